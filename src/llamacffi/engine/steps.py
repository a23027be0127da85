"""A step: the next tokens of all running requests in one decode, and what to do if it fails."""

from __future__ import annotations

import time
from collections.abc import Sequence

from llamacffi.batch import Batch
from llamacffi.context import Context
from llamacffi.engine.pace import Pace, shares
from llamacffi.engine.places import Places
from llamacffi.engine.request import Request
from llamacffi.engine.stats import Counters
from llamacffi.errors import CancelledError, ContextFullError
from llamacffi.logprobs import token_logprobs

__all__ = ["SCORED_ROWS", "Steps"]

# Most tokens of prompts in a step whose probabilities are wanted.
SCORED_ROWS = 32
# A request's next tokens: so many of it.
Part = tuple[Request, int]


class Steps:
    """Computes those that have places; used in the engine's thread only.

    Args:
        context: Where.
        places: Who.
        pace: How much at once.
        counters: What is counted.
    """

    def __init__(self, context: Context, places: Places, pace: Pace, counters: Counters) -> None:
        self.context = context
        self._places = places
        self._pace = pace
        self._counters = counters
        # Those in a decode that failed: they go on one at a time until it is clear whose fault
        # it was.
        self._suspects: list[Request] = []

    def plan(self) -> list[Part]:
        """Whose tokens are computed next, and how many."""
        placed = [request for request in self._places.running if request.sequence is not None]
        self._suspects = [request for request in self._suspects if request in placed]
        if self._suspects:
            placed = self._suspects[:1]
        answering: list[Request] = []
        prompts: list[Request] = []
        for request in placed:
            (answering if request.answering else prompts).append(request)
        del answering[self.context.n_batch :]
        needs, scored = [], SCORED_ROWS
        for request in prompts:
            need = request.n_missing
            if request.scoring:
                need = min(need, scored)
                scored -= need
            needs.append(need)
        rows = shares(needs, self._pace.rows(len(answering), len(prompts)))
        parts = [(request, 1) for request in answering]
        return parts + [(request, n) for request, n in zip(prompts, rows, strict=True) if n]

    def compute(self, parts: Sequence[Part]) -> None:
        """Decode the next tokens of some, and have those that are so far pick one."""
        try:
            rows = self._decode(parts)
        except ContextFullError as error:
            self._agree_with_memory(parts)
            self._make_room(parts, error)
        except CancelledError:  # the engine stops, or somebody meant something else
            self._agree_with_memory(parts)
        except Exception as error:
            self._agree_with_memory(parts)
            self._blame(parts, error)
        else:
            if parts[0][0] in self._suspects:
                self._suspects.remove(parts[0][0])
            for (request, count), row in zip(parts, rows, strict=True):
                self._computed(request, count, row)

    def _decode(self, parts: Sequence[Part]) -> list[int]:
        """Compute; returns each part's first row."""
        batch = Batch()
        rows = []
        n_answering = 0
        for request, count in parts:
            tokens, start = request.tokens, request.n_past
            assert request.sequence is not None
            sequences = (request.sequence,)
            rows.append(len(batch))
            n_answering += request.answering
            last, all_wanted = len(tokens) - 1, request.scoring
            for position in range(start, start + count):
                batch.add(tokens[position], position, sequences, all_wanted or position == last)
        begun = time.monotonic()
        self.context.decode(batch)
        seconds = time.monotonic() - begun
        self._pace.learn(n_answering, len(batch) - n_answering, seconds)
        self._counters.steps += 1
        self._counters.computed_tokens += len(batch)
        return rows

    def _computed(self, request: Request, count: int, row: int) -> None:
        """Note that so many tokens were computed, the first of them in this row."""
        if request.scoring:
            self._score(request, count, row)
        request.n_past += count
        if request.n_missing:
            return
        if request.generation.finish_reason is not None:  # its prompt was all that was wanted
            self._places.finish(request)
        else:
            self._advance(request, row + count - 1)

    def _score(self, request: Request, count: int, row: int) -> None:
        """See how probable the tokens are that follow the computed ones."""
        generation = request.generation
        following = generation.prompt[request.n_past + 1 : request.n_past + 1 + count]
        generation.prompt_scores += [
            token_logprobs(self.context.logits(row + place), token, generation.logprobs or 0)
            for place, token in enumerate(following)
        ]

    def _advance(self, request: Request, row: int) -> None:
        before = len(request.tokens)
        try:
            step = request.generation.advance(self.context, row)
        except BaseException as error:  # of a sampler, a processor, a criterion: it is its own
            return self._places.fail(request, error)
        self._counters.completion_tokens += len(request.tokens) - before
        request.deliver(step)
        if step.finish_reason is not None:
            self._places.finish(request)
        return None

    # -- when a step fails --------------------------------------------------------------------

    def _agree_with_memory(self, parts: Sequence[Part]) -> None:
        """A state that cannot go back was forgotten as a whole."""
        if self.context.closed or self.context.broken:
            return
        for request, _ in parts:
            assert request.sequence is not None
            known = self.context.memory.position_max(request.sequence) + 1
            if known < request.n_past:
                request.n_past = known
                if request.scoring:
                    del request.generation.prompt_scores[known:]

    def _make_room(self, parts: Sequence[Part], error: ContextFullError) -> None:
        """The memory is full: forget, else compute less at once, else send someone back."""
        if self._places.sequences.forget_one():
            return None
        smaller = [(request, (count + 1) // 2) for request, count in parts]
        if smaller != list(parts):
            return self.compute(smaller)
        placed = [request for request in self._places.running if request.sequence is not None]
        last = max(placed, key=lambda request: request.rank)
        if len(placed) == 1:
            return self._places.fail(last, error)
        return self._places.send_back(last)

    def _blame(self, parts: Sequence[Part], error: Exception) -> None:
        """A decode failed: find out because of whom, and let the others go on."""
        if self.context.closed:
            return  # the loop sees that, too
        if len(parts) == 1:
            self._places.fail(parts[0][0], error)
        else:
            self._suspects = [request for request, _ in parts]
