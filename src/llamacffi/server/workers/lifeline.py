"""No worker outlives its supervisor, however that ends.

A worker's standard input is a pipe that the supervisor holds open and nobody else has: when it
closes, the supervisor is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from llamacffi.server.workers.spec import WorkerSpec
from llamacffi.server.workers.wire import from_json, to_json

__all__ = ["end_with_supervisor", "packed", "received"]

STDIN = 0
_SIZE_BYTES = 8


def packed(spec: WorkerSpec) -> bytes:
    """What a supervisor writes into the pipe at first."""
    contents = to_json(spec)
    return len(contents).to_bytes(_SIZE_BYTES, "big") + contents


def received() -> WorkerSpec:
    """What the supervisor wrote."""
    return from_json(_read(int.from_bytes(_read(_SIZE_BYTES), "big")))


def _read(size: int) -> bytes:
    # Without a buffer, which would want to have the bytes after these, too.
    parts = []
    while size:
        part = os.read(STDIN, size)
        if not part:
            raise SystemExit("The supervisor is gone.")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def end_with_supervisor() -> None:
    """From now on, end at once when the supervisor does."""
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
