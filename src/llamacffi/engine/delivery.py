"""Handing the steps of a job's requests over to the thread that waits for them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llamacffi.engine.request import Request
from llamacffi.generation import Step
from llamacffi.job import Job

__all__ = ["Mailbox", "job_pieces", "job_result"]

# A request's index, and its step, or None at its end.
Item = tuple[int, "Step | None"]


class Mailbox:
    """Where one thread waits for the steps of some requests."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[tuple[int, Step | Exception | None]] = queue.SimpleQueue()

    def put(self, index: int, item: Step | Exception | None) -> None:
        """See `Recipient`."""
        self._items.put((index, item))

    def read(self, requests: Sequence[Request], cancel: Callable[[], None]) -> Iterator[Item]:
        """The steps as they come, and None for the end of each request.

        Args:
            requests: Those that deliver here.
            cancel: Ends all of them; called if the reader leaves before the end.

        Raises:
            Exception: What ended one of them; the others are cancelled.
        """
        open_ones = len(requests)
        try:
            while open_ones:
                index, item = self._items.get()
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    open_ones -= 1
                yield index, item
        finally:
            if open_ones:
                cancel()


def job_pieces(job: Job, items: Iterator[Item]) -> Iterator[dict[str, Any]]:
    """The pieces of a job's stream; those of several choices are mixed."""
    for index, item in items:
        choice = job.choices[index]
        yield from (job.close(choice) if item is None else job.push(choice, item))
    yield from job.end()


def job_result(job: Job, items: Iterator[Item]) -> dict[str, Any]:
    """A job's result, when all is there."""
    steps: list[list[Step]] = [[] for _ in job.choices]
    for index, item in items:
        if item is None:
            job.choices[index].steps = steps[index]
        else:
            steps[index].append(item)
    return job.result()
