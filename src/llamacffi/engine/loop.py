"""The decode loop: one thread that computes the next step of all running requests at once."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from llamacffi.context import Context
from llamacffi.engine.line import WaitingLine
from llamacffi.engine.pace import Pace
from llamacffi.engine.places import Places
from llamacffi.engine.request import Request
from llamacffi.engine.stats import Counters
from llamacffi.engine.steps import Steps
from llamacffi.errors import (
    CancelledError,
    ClosedError,
    DeadlineError,
    LlamaCffiError,
    RemoteDeviceError,
)

__all__ = ["Loop"]

log = logging.getLogger(__name__)

# How often those who wait are looked through for those whose time is over.
LOOK_SECONDS = 0.05
# How long an exit of the interpreter waits for somebody's callback that is being called.
EXIT_TIMEOUT_SECONDS = 5.0


class Loop:
    """Computes requests, many in one decode; its thread is the only one that uses the context.

    Args:
        make_context: Makes the context; again, should it have to be given up.
        n_parallel: Most requests at a time.
        line: Where they wait.
        step_seconds: See `Pace`.
        flush: Called after each step, when its results have been handed over.
    """

    def __init__(
        self,
        make_context: Callable[[], Context],
        n_parallel: int,
        line: WaitingLine,
        step_seconds: float,
        flush: Callable[[], None],
    ) -> None:
        self._make_context = make_context
        self.context = context = make_context()
        self.counters = Counters()
        self._line = line
        self._places = Places(context, n_parallel, line, self.counters)
        self._steps = Steps(
            context, self._places, Pace(step_seconds, context.n_batch), self.counters
        )
        self._flush = flush
        self._errands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._next_look = 0.0
        self._progress = -1  # how much was done when a context was last given up
        self._stop: str | None = None
        self._kind: type[LlamaCffiError] = ClosedError  # how that is told
        self.closing = False  # no more requests are taken
        self.thread = threading.Thread(target=self._work, name="llamacffi-engine", daemon=True)
        self.thread.start()

    # -- from any thread ----------------------------------------------------------------------

    def run_errand(self, errand: Callable[[], None]) -> None:
        """Have something done in the loop's thread, between two steps; it must not raise."""
        self._errands.put(errand)

    def wake(self) -> None:
        """Have the loop look at its line."""
        self._errands.put(_nothing)

    def cancel(self, requests: Sequence[Request]) -> None:
        """Drop requests before the next step."""
        for request in requests:
            request.cancelled = True
        self._errands.put(self._look_now)

    def stop(self, reason: str) -> None:
        """End all requests with a ClosedError that says why, and then the thread; see `join`."""
        if self._stop is None:
            self._stop = reason
        if not self.context.closed:
            self.context.cancel()
        self.wake()

    def join(self) -> None:
        """Wait for the thread's end; when the interpreter exits, only for a while."""
        exiting = not threading.main_thread().is_alive()
        self.thread.join(EXIT_TIMEOUT_SECONDS if exiting else None)

    @property
    def stopped(self) -> str | None:
        """Why the loop takes no more requests; None if it does."""
        return self._stop

    def refusal(self) -> LlamaCffiError:
        """What requests get that come when it has stopped."""
        return self._kind(self._stop)

    @property
    def n_running(self) -> int:
        """How many requests have a place."""
        return len(self._places.running)

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits."""
        return self.thread.is_alive() and bool(self._places.running or len(self._line))

    @property
    def n_remembered(self) -> int:
        """Tokens that the memory holds; what sequences share counts for each."""
        return self.context.memory.n_known

    @property
    def n_idle_sequences(self) -> int:
        """How many sequences nobody has."""
        return self._places.sequences.n_idle

    # -- the loop -----------------------------------------------------------------------------

    def _work(self) -> None:
        while self._stop is None:
            try:
                self._turn()
            except BaseException as error:
                if self._stop is None and not self.context.closed and not self.context.broken:
                    log.exception("The engine failed.")
                    self._stop = f"The engine failed: {error!r}"
        ended = [*self._places.running, *self._line]
        self._line.remove(set(ended))
        self._places.running.clear()
        for request in ended:
            self.counters.failed += 1
            request.deliver(self.refusal())
        while not self._errands.empty():
            self._run_errands()
        self._flush()

    def _turn(self) -> None:
        if self.context.closed:
            self._stop = "The model of this engine was closed."
            return None
        if self.context.broken:
            return self._renew()
        self._run_errands()
        self._drop_unwanted()
        self._places.admit()
        parts = self._steps.plan()
        if parts:
            self._steps.compute(parts)
        self._flush()
        return None

    def _run_errands(self) -> None:
        """Do what was asked for; with nothing else to do, wait for it."""
        idle = not self._places.running and not len(self._line) and self._stop is None
        # Those that come meanwhile wait for the next turn: a step comes before.
        for _ in range(max(1, self._errands.qsize())):
            try:
                errand = self._errands.get(block=idle)
            except queue.Empty:
                return
            errand()
            idle = False

    def _look_now(self) -> None:
        self._next_look = 0.0

    def _drop_unwanted(self) -> None:
        now = time.monotonic()
        unwanted = [request for request in self._places.running if _is_over(request, now)]
        if now >= self._next_look or self._places.n_free:
            self._next_look = now + LOOK_SECONDS
            waiting = [request for request in self._line if _is_over(request, now)]
            self._line.remove(set(waiting))
            unwanted += waiting
        for request in unwanted:
            self._places.leave(request)
            if request.cancelled:
                self.counters.cancelled += 1
                request.deliver(CancelledError("The request was cancelled."))
            else:
                self.counters.expired += 1
                request.deliver(_too_late(request))

    def _renew(self) -> None:
        """The context was given up after a failure inside llama.cpp: go on in a new one."""
        progress = self.counters.steps + self.counters.failed
        if progress == self._progress:
            self._stop = "The context failed twice in a row, before anything was computed."
            return
        self._progress = progress
        try:
            self.context = self._make_context()
        except RemoteDeviceError as error:
            self._stop, self._kind = str(error), RemoteDeviceError
            return
        except Exception as error:
            self._stop = f"The context failed, and no other one could be made: {error}"
            return
        self._steps.context = self.context
        self._places.use(self.context)


def _is_over(request: Request, now: float) -> bool:
    deadline = request.deadline
    return request.cancelled or (deadline is not None and now > deadline)


def _too_late(request: Request) -> DeadlineError:
    return DeadlineError(
        f"The request was not over after {request.options.timeout} s: "
        f"{request.generation.n_generated} tokens were generated. Give it more time, or ask for "
        "less."
    )


def _nothing() -> None:
    """An errand that only wakes."""
