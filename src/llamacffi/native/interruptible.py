"""Run a long native call so that Ctrl-C and callbacks work while it runs.

Python runs signal handlers only between bytecodes of the main thread. While that thread sits in
a native call, nothing happens; so the call goes to a worker thread and the caller waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from llamacffi.call import check_cancelled

__all__ = ["in_main_thread", "run_interruptible"]

Result = TypeVar("Result")
TICK_SECONDS = 0.05


def run_interruptible(
    call: Callable[[], Result],
    cancel: Callable[[], object],
    discard: Callable[[Result], object] | None = None,
    tick: Callable[[], object] | None = None,
) -> Result:
    """Run `call` in a worker thread and wait for it.

    Args:
        call: The native call.
        cancel: Makes the call return soon; called when the wait is interrupted.
        discard: Frees what the call returned nevertheless after it was cancelled.
        tick: Called in this thread about twenty times a second while waiting; what it raises
            cancels the call, as KeyboardInterrupt does, and the end of who waits for the `Call`.

    Returns:
        What `call` returned. What it raised is raised here.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # carried over to the caller's thread
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=work, name="llamacffi-call", daemon=True).start()
    try:
        while not done.wait(TICK_SECONDS):
            check_cancelled()
            if tick is not None:
                tick()
    except BaseException:
        cancel()
        _wait_through(done)
        if results and discard is not None:
            discard(results[0])
        raise
    if errors:
        raise errors[0]
    return results[0]


def in_main_thread() -> bool:
    """Whether this is the thread that signal handlers run in."""
    return threading.current_thread() is threading.main_thread()


def _wait_through(done: threading.Event) -> None:
    """Wait although Ctrl-C is pressed again: the native call still uses our memory."""
    while not done.is_set():
        try:
            done.wait()
        except KeyboardInterrupt:
            continue
