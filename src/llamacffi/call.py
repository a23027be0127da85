"""A call that a coroutine waits for while a worker thread makes it: who waits, and have they left?

What runs in the worker finds its `Call` in a context variable. Whatever takes long there looks at
it: a decode, a load, a download, the wait for one's turn. Without a call, a thread waits for
itself.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Protocol

from llamacffi.errors import CancelledError

__all__ = ["Call", "Waiter", "check_cancelled", "current_call"]

# `asyncio.wait_for` reads each piece of a stream in a task of its own, before Python 3.12. When
# such a task is done, the next one is about to come: so long it may take.
ABANDONED_SECONDS = 1.0

_current: ContextVar[Call | None] = ContextVar("llamacffi_call", default=None)


class Waiter(Protocol):
    """Who waits: an asyncio task."""

    def done(self) -> bool:
        """Whether it has ended."""


class Loop(Protocol):
    """Where they wait: an asyncio event loop."""

    def is_closed(self) -> bool:
        """Whether it will never run again."""


class Call:
    """One call, or one stream; made in the thread of the event loop.

    Attributes:
        thread: The event loop's.
    """

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        # Re-entrant: the garbage collector may find an abandoned stream anywhere, and cancel it.
        self._lock = threading.RLock()
        self._reason: str | None = None
        self._interrupts: list[Callable[[], object]] = []
        self._waiter: weakref.ref[Waiter] | None = None
        self._loop: Loop | None = None
        self._waited_at = time.monotonic()

    def enter(self, context: Context) -> None:
        """Make this the call of what runs in a context."""
        context.run(_current.set, self)

    # -- who waits ----------------------------------------------------------------------------

    def awaited_by(self, waiter: Waiter | None, loop: Loop) -> None:
        """Note who waits now, and where."""
        self._loop = loop
        self._waiter = None if waiter is None else weakref.ref(waiter)
        self._waited_at = time.monotonic()

    def same_waiter(self, other: Call) -> bool:
        """Whether another call is, or was last, awaited by the same one."""
        waiter = None if self._waiter is None else self._waiter()
        return waiter is not None and other._waiter is not None and other._waiter() is waiter

    @property
    def abandoned(self) -> bool:
        """Whether who waited has ended, and nobody came instead."""
        waiter = None if self._waiter is None else self._waiter()
        gone = self._waiter is not None and (waiter is None or waiter.done())
        return gone and time.monotonic() - self._waited_at > ABANDONED_SECONDS

    # -- whether they have given up -----------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether the call is to stop."""
        if self._reason is None and self._loop is not None and self._loop.is_closed():
            self.cancel("The event loop was closed while this call was made.")
        return self._reason is not None

    def cancel(self, reason: str) -> None:
        """Make the call stop soon, with a CancelledError that says why; from any thread."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
            for interrupt in self._interrupts:
                interrupt()

    def check(self) -> None:
        """Stop here if the call is to stop.

        Raises:
            CancelledError: It is.
        """
        if self.cancelled:
            raise CancelledError(self._reason)

    @contextmanager
    def interrupting(
        self, interrupt: Callable[[], object], settle: Callable[[], object] | None = None
    ) -> Iterator[None]:
        """While the block runs, cancelling the call interrupts it.

        Args:
            interrupt: Makes the block end soon; called in the thread that cancels, never before
                the block and never after it.
            settle: Undoes what an interrupt leaves behind if it comes too late.

        Raises:
            CancelledError: The call was cancelled before the block.
        """
        with self._lock:
            self.check()
            self._interrupts.append(interrupt)
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)
                if self._reason is not None and settle is not None:
                    settle()


def current_call() -> Call | None:
    """The call that this code runs for; None where a thread waits for itself."""
    return _current.get()


def check_cancelled() -> None:
    """Stop here if the current call is to stop.

    Raises:
        CancelledError: It is.
    """
    call = _current.get()
    if call is not None:
        call.check()
