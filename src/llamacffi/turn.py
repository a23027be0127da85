"""One answer at a time: others wait in line, and who left a stream unfinished does not hold it up.

Who asks is a thread, or, where a worker thread runs a `Call` for a coroutine, the task that awaits
it. Their own unfinished stream gives way to their next one.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TypeVar

from llamacffi.call import current_call
from llamacffi.errors import CancelledError

__all__ = ["Turn"]

_Step = TypeVar("_Step")

# Who ends without a word is noticed so soon by those who wait for them.
POLL_SECONDS = 0.05
SUPERSEDED = (
    "This stream was superseded by another call on the same Llama. Read a stream to its end before "
    "the next call, or use one Llama for each."
)


class _Place:
    """A stream's place in the line."""

    def __init__(self) -> None:
        self.call = current_call()
        self.thread = threading.current_thread() if self.call is None else self.call.thread
        self.stepping: int | None = None  # the thread that computes a step now
        # Not an Event: the garbage collector may close the stream in front anywhere, and a
        # SimpleQueue bears being called within itself.
        self.news: queue.SimpleQueue[None] = queue.SimpleQueue()

    def wake(self) -> None:
        """Let it look at the line."""
        self.news.put(None)

    def makes_room(self, other: _Place) -> bool:
        """Whether this stream is left over; if it still computes, it is told to stop."""
        if self.stepping == threading.get_ident():
            return True  # a callback of its own asks, which it would wait for
        if not self._left_for(other):
            return False
        if self.stepping is not None and self.call is not None:
            self.call.cancel(SUPERSEDED)
        return self.stepping is None

    def _left_for(self, other: _Place) -> bool:
        same_thread = self.thread is other.thread
        if self.call is None:
            return same_thread or not self.thread.is_alive()
        if self.call.abandoned:
            return True
        if other.call is None:  # it blocks the event loop, and nobody there could go on reading
            return same_thread and self.stepping is None
        return self.call.same_waiter(other.call)


class Turn:
    """Lets one stream of steps run at a time, in the order in which they begin."""

    def __init__(self) -> None:
        # Re-entrant, as the garbage collector may close a stream while this thread holds it.
        self._lock = threading.RLock()
        self._line: deque[_Place] = deque()  # the first one has the turn

    def take(self, steps: Iterator[_Step]) -> Iterator[_Step]:
        """Run the steps when it is their turn, which begins with the first one.

        Raises:
            CancelledError: They were superseded, or the current call is to stop.
        """
        place = _Place()
        try:
            self._wait(place)
            while self._begin_step(place):
                try:
                    step = next(steps, None)
                finally:
                    place.stepping = None
                if step is None:
                    return
                yield step
            raise CancelledError(SUPERSEDED)
        finally:
            self._leave(place)

    def _wait(self, place: _Place) -> None:
        with self._lock:
            self._line.append(place)
        call = place.call
        with nullcontext() if call is None else call.interrupting(place.wake):
            while not self._reached(place):
                try:
                    place.news.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                if call is not None:
                    call.check()

    def _reached(self, place: _Place) -> bool:
        with self._lock:
            first = self._line[0]
            if first is not place and first.makes_room(place):
                self._leave(first)
            return self._line[0] is place

    def _begin_step(self, place: _Place) -> bool:
        with self._lock:
            if not self._line or self._line[0] is not place:
                return False
            place.stepping = threading.get_ident()
            if place.call is None:
                place.thread = threading.current_thread()
            return True

    def _leave(self, place: _Place) -> None:
        with self._lock:
            if place in self._line:
                self._line.remove(place)
            if self._line:
                self._line[0].wake()
