"""Handing the steps of a job's requests over to the thread that waits for them."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from llamacffi.engine.request import Request
from llamacffi.generation import Generation, Step
from llamacffi.job import Job

__all__ = ["Reading", "Submitting", "job_pieces", "job_result"]

# A request's index, and its step, or None at its end.
Item = tuple[int, "Step | None"]


class Submitting(Protocol):
    """What an engine does for those who wait."""

    def submit(self, generations: Sequence[Generation], recipient: _Mailbox) -> list[Request]:
        """Have generations computed."""

    def cancel(self, requests: Sequence[Request]) -> None:
        """Drop requests."""

    def check_waiting(self) -> None:
        """Refuse to wait where that would be forever."""


class _Mailbox:
    """Where steps are put; of its own, so that requests do not hold who reads them."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[tuple[int, Step | BaseException | None]] = queue.SimpleQueue()

    def put(self, index: int, item: Step | BaseException | None) -> None:
        """See `Recipient`."""
        self.items.put((index, item))


class Reading(Iterator[Item]):
    """Has generations computed, and gives their steps as they come, and None for each end.

    Closing it, or forgetting it, ends the requests that are not over.

    Args:
        engine: What computes them.
        generations: What is to be computed.

    Raises:
        BusyError: Too many wait already.
        ClosedError: The engine was closed.
        UnsupportedError: This is the engine's own thread, which would wait for itself.
    """

    def __init__(self, engine: Submitting, generations: Sequence[Generation]) -> None:
        self._n_open = 0  # should submitting fail
        self._engine = engine
        self._mailbox = _Mailbox()
        engine.check_waiting()
        self._requests = engine.submit(generations, self._mailbox)
        self._n_open = len(generations)

    def __next__(self) -> Item:
        """Wait for the next step.

        Raises:
            Exception: What ended one of the requests; the others are cancelled.
        """
        if not self._n_open:
            raise StopIteration
        self._engine.check_waiting()
        try:
            index, item = self._mailbox.items.get()
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if isinstance(item, BaseException):
            self.close()
            try:
                raise item
            finally:
                del item  # its traceback holds this frame
        if item is None:
            self._n_open -= 1
        return index, item

    def close(self) -> None:
        """End the requests. Safe to call twice."""
        if self._n_open:
            self._n_open = 0
            self._engine.cancel(self._requests)

    def __del__(self) -> None:
        self.close()


def job_pieces(job: Job, reading: Reading) -> Iterator[dict[str, Any]]:
    """The pieces of a job's stream; those of several choices are mixed."""
    try:
        for index, item in reading:
            choice = job.choices[index]
            yield from (job.close(choice) if item is None else job.push(choice, item))
        yield from job.end()
    finally:
        reading.close()


def job_result(job: Job, reading: Iterator[Item]) -> dict[str, Any]:
    """A job's result, when all is there."""
    steps: list[list[Step]] = [[] for _ in job.choices]
    for index, item in reading:
        if item is None:
            job.choices[index].steps = steps[index]
        else:
            steps[index].append(item)
    return job.result()
