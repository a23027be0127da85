"""No process of ours outlives the one that started it, however that ends.

Its standard input is a pipe that the other one holds open and nobody else has: when it closes, that
process is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

__all__ = ["STDIN", "end_with_parent"]

STDIN = 0


def end_with_parent() -> None:
    """From now on, end at once when the process that holds the pipe does."""
    threading.Thread(target=_wait_and_end, name="lifeline", daemon=True).start()
    if sys.platform == "linux":
        # A thread cannot end a process that is stopped, or that hangs and holds the interpreter's
        # lock; the kernel can.
        import fcntl

        fcntl.fcntl(STDIN, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(STDIN, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(STDIN, fcntl.F_GETFL)
        fcntl.fcntl(STDIN, fcntl.F_SETFL, flags | os.O_ASYNC)


def _wait_and_end() -> None:
    while os.read(STDIN, 1):
        pass
    os._exit(0)
