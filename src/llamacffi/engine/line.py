"""The line of those who wait for a place: bounded, by priority, and nobody waits forever."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterator, Sequence

from llamacffi.engine.request import Request
from llamacffi.errors import BusyError

__all__ = ["WaitingLine"]


class WaitingLine:
    """Requests in the order in which they are served; safe for threads.

    Args:
        n_max: Most requests that wait.
        n_places: How many can be computed at a time: who can have a free place does not wait.

    Attributes:
        n_added: How many were ever taken in.
    """

    def __init__(self, n_max: int, n_places: int) -> None:
        self.n_max = n_max
        self.n_added = 0
        self._n_free = n_places
        self._lock = threading.Lock()
        # A priority that grows with time, compared among those who wait, does not change with it.
        self._heap: list[tuple[tuple[float, int], Request]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, requests: Sequence[Request]) -> None:
        """Let requests wait: all of them, or none.

        Raises:
            BusyError: There is no room for them.
        """
        with self._lock:
            self.check_room(len(requests))
            for request in requests:
                heapq.heappush(self._heap, (request.rank, request))
            self.n_added += len(requests)

    def check_room(self, count: int) -> None:
        """Whether so many more may wait.

        Raises:
            BusyError: There is no room for them.
        """
        if len(self._heap) + count > self.n_max + self._n_free:
            raise BusyError(
                f"{len(self._heap)} requests wait already, and {count} more would be above "
                f"n_queue_max={self.n_max}. Try again later, or use a larger one."
            )

    def pop(self, accept: Callable[[Request], bool]) -> Request | None:
        """Give the next one a place; None if nobody waits, or if it is not accepted."""
        with self._lock:
            if not self._heap or not accept(self._heap[0][1]):
                return None
            self._n_free -= 1
            return heapq.heappop(self._heap)[1]

    def free_place(self) -> None:
        """One that had a place has left it."""
        with self._lock:
            self._n_free += 1

    def put_back(self, request: Request) -> None:
        """Let one that had a place wait again, where it would stand had it never had one."""
        with self._lock:
            heapq.heappush(self._heap, (request.rank, request))

    def remove(self, requests: set[Request]) -> None:
        """Drop some."""
        with self._lock:
            self._heap = [entry for entry in self._heap if entry[1] not in requests]
            heapq.heapify(self._heap)

    def __iter__(self) -> Iterator[Request]:
        with self._lock:
            waiting = [entry[1] for entry in self._heap]
        return iter(waiting)
