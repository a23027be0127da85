"""The line of those who wait for a place: bounded, by priority, and nobody waits forever."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Iterator, Sequence

from llamacffi.engine.request import Request
from llamacffi.errors import BusyError

__all__ = ["WaitingLine"]

# Who waits this long counts as one priority higher.
AGING_SECONDS = 10.0


class WaitingLine:
    """Requests in the order in which they are served; safe for threads.

    Args:
        n_max: Most requests that wait.
    """

    def __init__(self, n_max: int) -> None:
        self.n_max = n_max
        self._lock = threading.Lock()
        self._count = itertools.count()
        # A priority that grows with time, compared among those who wait, does not change with it.
        self._heap: list[tuple[float, int, Request]] = []

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
                self._push(request)

    def check_room(self, count: int) -> None:
        """Whether so many more may wait.

        Raises:
            BusyError: There is no room for them.
        """
        if len(self._heap) + count > self.n_max:
            raise BusyError(
                f"{len(self._heap)} requests wait already, and {count} more would be above "
                f"n_queue_max={self.n_max}. Try again later, or use a larger one."
            )

    def put_back(self, request: Request) -> None:
        """Let one that had a place wait again, where it would stand had it never had one."""
        with self._lock:
            self._push(request)

    def pop(self) -> Request | None:
        """The next one to be served; None if nobody waits."""
        with self._lock:
            return heapq.heappop(self._heap)[2] if self._heap else None

    def remove(self, requests: set[Request]) -> None:
        """Drop some."""
        with self._lock:
            self._heap = [entry for entry in self._heap if entry[2] not in requests]
            heapq.heapify(self._heap)

    @staticmethod
    def rank(request: Request) -> float:
        """By which they are served, the smallest first."""
        return request.arrived - AGING_SECONDS * request.options.priority

    def __iter__(self) -> Iterator[Request]:
        with self._lock:
            waiting = [entry[2] for entry in self._heap]
        return iter(waiting)

    def _push(self, request: Request) -> None:
        heapq.heappush(self._heap, (self.rank(request), next(self._count), request))
