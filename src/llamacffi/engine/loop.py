"""The decode loop: one thread that computes the next step of all running requests at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from llamacffi.batch import Batch
from llamacffi.context import Context
from llamacffi.engine.line import WaitingLine
from llamacffi.engine.pace import Pace, shares
from llamacffi.engine.request import Request
from llamacffi.engine.sequences import Sequences
from llamacffi.engine.stats import Counters
from llamacffi.errors import ClosedError, ContextFullError, DeadlineError
from llamacffi.prefix import common_length
from llamacffi.scoring import score_prompt

__all__ = ["Loop"]

# So many tokens are worth waiting for another request to compute them first.
WORTH_WAITING = 16
# A request's next tokens: so many of it.
Part = tuple[Request, int]


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
        self.context = make_context()
        self._sequences = Sequences(self.context)
        self._n_parallel = n_parallel
        self._line = line
        self._pace = Pace(step_seconds, self.context.n_batch)
        self._flush = flush
        self.counters = Counters()
        # Those that have a place, in the order in which they got it.
        self.running: list[Request] = []
        # Those in a decode that failed: they go on one at a time until it is clear whose fault
        # it was.
        self._suspects: list[Request] = []
        self._full = False  # someone was sent back: nobody is let in before someone has left
        self._errands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stop: str | None = None
        self.closing = False  # no more requests are taken
        self.thread = threading.Thread(target=self._work, name="llamacffi-engine", daemon=True)
        self.thread.start()

    # -- from any thread ----------------------------------------------------------------------

    def run_errand(self, errand: Callable[[], None]) -> None:
        """Have something done in the loop's thread, between two steps; it must not raise."""
        self._errands.put(errand)

    def wake(self) -> None:
        """Have the loop look at its line, and at what was cancelled."""
        self._errands.put(_nothing)

    def stop(self, reason: str) -> None:
        """End all requests with a ClosedError that says why, and then the thread."""
        self._stop = reason
        if not self.context.closed:
            self.context.cancel()
        self.wake()
        if threading.current_thread() is not self.thread:
            self.thread.join()

    @property
    def stopped(self) -> str | None:
        """Why the loop takes no more requests; None if it does."""
        return self._stop

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits."""
        return self._stop is None and bool(self.running or len(self._line))

    @property
    def n_remembered(self) -> int:
        """Tokens that the memory holds; what sequences share counts for each."""
        return self.context.memory.n_known

    # -- the loop -----------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._stop is None:
                self._run_errands()
                self._drop_unwanted()
                self._admit()
                self._step(self._plan())  # named here, they would outlive their requests
                self._flush()
        except BaseException as error:  # what should not be; nobody is left waiting
            self._stop = f"The engine failed: {error!r}"
            raise
        finally:
            for request in (*self.running, *self._line):
                request.deliver(ClosedError(self._stop or ""))
            self._line.remove(set(self._line))
            self.running.clear()
            self._run_errands()
            self._flush()

    def _run_errands(self) -> None:
        """Do what was asked for; with nothing else to do, wait for it."""
        while True:
            idle = not self.running and not len(self._line) and self._stop is None
            try:
                errand = self._errands.get(block=idle)
            except queue.Empty:
                return
            errand()

    def _drop_unwanted(self) -> None:
        now = time.monotonic()
        dropped = []
        for request in (*self.running, *self._line):
            deadline = request.deadline
            if request.cancelled:
                self.counters.cancelled += 1
            elif deadline is not None and now > deadline:
                self.counters.expired += 1
                request.deliver(
                    DeadlineError(
                        f"The request was not over after {request.options.timeout} s: "
                        f"{request.generation.n_generated} tokens were generated. Give it more "
                        "time, or ask for less."
                    )
                )
            else:
                continue
            dropped.append(request)
        if dropped:
            self._line.remove(set(dropped))
            for request in dropped:
                self._leave(request)

    def _leave(self, request: Request) -> None:
        """Take a request's place from it; the line is another matter."""
        if request in self.running:
            self.running.remove(request)
            self._full = False
        if request in self._suspects:
            self._suspects.remove(request)
        if request.sequence is not None:
            self._sequences.release(request.sequence)
            request.sequence = None

    def _fail(self, request: Request, error: Exception) -> None:
        self.counters.failed += 1
        self._leave(request)
        request.deliver(error)

    def _finish(self, request: Request) -> None:
        self.counters.finished += 1
        self._leave(request)
        request.deliver(None)

    # -- who takes part -----------------------------------------------------------------------

    def _admit(self) -> None:
        while len(self.running) < self._n_parallel and not self._full:
            request = self._line.pop()
            if request is None:
                break
            self.running.append(request)
        for request in [request for request in self.running if request.sequence is None]:
            if not self._computed_by_another(request):
                self._begin(request)

    def _computed_by_another(self, request: Request) -> bool:
        """Whether a running request will soon know more of the tokens than anyone does now."""
        tokens = request.tokens
        soon = max(
            (
                common_length(other.generation.prompt, tokens)
                for other in self.running
                if other.sequence is not None and not other.answering
            ),
            default=0,
        )
        soon = min(soon, len(tokens) - 1)
        if soon < WORTH_WAITING or not self._sequences.can_share:
            return False
        return soon - self._sequences.known_prefix(tokens) >= WORTH_WAITING

    def _begin(self, request: Request) -> None:
        place = self._sequences.take(request.tokens)
        assert place is not None, "there are more sequences than places"
        request.sequence, request.n_past = place
        generation = request.generation
        if generation.n_generated:
            return  # it was sent back, and goes on
        generation.n_cached = request.n_past
        self.counters.prompt_tokens += len(generation.prompt)
        self.counters.cached_tokens += request.n_past
        generation.fit(self.context.n_ctx_seq - len(generation.prompt))
        if generation.wants_prompt_scores:
            self._score(request, place[0])
        if generation.finish_reason is not None:
            self._finish(request)

    def _score(self, request: Request, sequence: int) -> None:
        """Compute a prompt whose tokens' probabilities are wanted, and pick the first token."""
        generation = request.generation
        generation.n_cached = request.n_past = 0
        while not generation.prompt_scores:
            try:
                generation.prompt_scores = score_prompt(
                    self.context, generation.prompt, generation.logprobs or 0, sequence
                )
            except ContextFullError as error:
                if not self._sequences.forget_one():
                    return self._fail(request, error)
            except Exception as error:
                return self._fail(request, error)
            if len(generation.prompt) == 1:
                break
        request.n_past = len(generation.prompt)
        if generation.finish_reason is None:
            self._advance(request, -1)
        return None

    def _plan(self) -> list[Part]:
        """Whose tokens are computed next, and how many."""
        computed = [request for request in self.running if request.sequence is not None]
        suspect = next((request for request in computed if request in self._suspects), None)
        if suspect is not None:
            return [(suspect, min(suspect.n_missing, self._pace.rows(0)))]
        answering = [request for request in computed if request.answering]
        prompts = [request for request in computed if not request.answering]
        rows = shares([request.n_missing for request in prompts], self._pace.rows(len(answering)))
        parts = [(request, 1) for request in answering]
        return parts + [(request, n) for request, n in zip(prompts, rows, strict=True) if n]

    # -- one step -----------------------------------------------------------------------------

    def _step(self, parts: list[Part]) -> None:
        if not parts:
            return None
        try:
            rows = self._decode(parts)
        except ContextFullError as error:
            return self._make_room(parts, error)
        except Exception as error:
            return self._blame(parts, error)
        if parts[0][0] in self._suspects:
            self._suspects.remove(parts[0][0])
        for (request, count), row in zip(parts, rows, strict=True):
            request.n_past += count
            if request.n_missing == 0:
                self._advance(request, row)
        return None

    def _decode(self, parts: list[Part]) -> list[int]:
        """Compute; returns each part's last row."""
        batch = Batch()
        rows = []
        for request, count in parts:
            tokens, start = request.tokens, request.n_past
            assert request.sequence is not None
            sequences = (request.sequence,)
            for position in range(start, start + count):
                batch.add(tokens[position], position, sequences, position + 1 == len(tokens))
            rows.append(len(batch) - 1)
        begun = time.monotonic()
        self.context.decode(batch)
        self._pace.learn(len(batch), time.monotonic() - begun)
        self.counters.steps += 1
        self.counters.computed_tokens += len(batch)
        return rows

    def _advance(self, request: Request, row: int) -> None:
        generation = request.generation
        before = generation.n_generated
        try:
            step = generation.advance(self.context, row)
        except Exception as error:  # of a sampler, a processor, a criterion: it is its own
            return self._fail(request, error)
        self.counters.completion_tokens += generation.n_generated - before
        request.deliver(step)
        if step.finish_reason is not None:
            self._finish(request)
        return None

    # -- when a step fails --------------------------------------------------------------------

    def _make_room(self, parts: Sequence[Part], error: ContextFullError) -> None:
        """The memory is full: forget, else compute less at once, else send someone back."""
        if self._sequences.forget_one():
            return None
        smaller = [(request, (count + 1) // 2) for request, count in parts]
        if smaller != list(parts):
            return self._step(smaller)
        placed = [request for request in self.running if request.sequence is not None]
        last = max(placed, key=WaitingLine.rank)
        if len(placed) == 1:
            return self._fail(last, error)
        sequence = last.sequence
        self._leave(last)
        assert sequence is not None
        self.context.memory.remove(sequence)
        self._full = True
        self.counters.preempted += 1
        self._line.put_back(last)
        return None

    def _blame(self, parts: Sequence[Part], error: Exception) -> None:
        """A decode failed: find out because of whom, and let the others go on."""
        if self._stop is not None:
            return
        if self.context.closed:
            self._stop = "The model of this engine was closed."
            return
        if self.context._handle.broken:
            self._renew()
        if len(parts) == 1:
            self._fail(parts[0][0], error)
        else:
            self._suspects = [request for request, _ in parts]

    def _renew(self) -> None:
        """The context was given up after a failure inside llama.cpp: go on in a new one."""
        try:
            self.context = self._make_context()
        except Exception as error:
            self._stop = f"The context failed, and no other one could be made: {error}"
            return
        self._sequences = Sequences(self.context)
        for request in self.running:
            request.sequence, request.n_past = None, 0


def _nothing() -> None:
    """An errand that only wakes."""
