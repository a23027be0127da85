"""What a caller asked for in one request: generations to run, and the shape of what comes of them.

A job decodes nothing. `Llama` runs its generations one after the other, an engine all at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from llamacffi.generation import Generation, Step, Usage, logprobs_of

__all__ = ["Choice", "Job"]


class Choice(Protocol):
    """One of a job's answers, which turns steps into OpenAI's shapes.

    Attributes:
        generation: What makes its text.
        steps: All its steps, where nothing is streamed; set when it is finished.
    """

    generation: Generation
    steps: Sequence[Step]

    def push(self, step: Step) -> list[dict[str, Any]]:
        """What one step adds to a stream."""

    def close(self) -> list[dict[str, Any]]:
        """What ends its stream: what was held back, and the finish reason."""

    def whole(self, index: int) -> dict[str, Any]:
        """The finished choice, at a place in the result."""


class Job:
    """One request.

    Args:
        choices: Its answers.
        head: What its result has beside choices and usage.
        chunk_head: The same of the pieces of its stream.
        n_best: How many answers are returned, those with the highest mean log probability; None
            for all.
        with_usage: End the stream with a piece that has the usage.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        head: dict[str, Any],
        chunk_head: dict[str, Any],
        *,
        n_best: int | None = None,
        with_usage: bool = False,
    ) -> None:
        self.choices = list(choices)
        self._head = head
        self._chunk_head = chunk_head
        self._n_best = n_best
        self._with_usage = with_usage
        if with_usage:
            self._chunk_head = {**chunk_head, "usage": None}

    # -- streamed -----------------------------------------------------------------------------

    def push(self, choice: Choice, step: Step) -> list[dict[str, Any]]:
        """The pieces that a step of a choice brings."""
        return [self._piece(piece) for piece in choice.push(step)]

    def close(self, choice: Choice) -> list[dict[str, Any]]:
        """The pieces that end a choice."""
        return [self._piece(piece) for piece in choice.close()]

    def end(self) -> list[dict[str, Any]]:
        """The pieces that end the stream, when all choices are closed."""
        if not self._with_usage:
            return []
        return [{**self._chunk_head, "choices": [], "usage": self._usage()}]

    def stream(self, run: Callable[[Generation], Iterator[Step]]) -> Iterator[dict[str, Any]]:
        """Run one generation after the other; yields the pieces as they come."""
        for choice in self.choices:
            for step in run(choice.generation):
                yield from self.push(choice, step)
            yield from self.close(choice)
        yield from self.end()

    def _piece(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._chunk_head, "choices": [choice]}

    # -- whole --------------------------------------------------------------------------------

    def finish(self, run: Callable[[Generation], Iterator[Step]]) -> Iterator[Choice]:
        """Run one generation after the other; yields each choice when it is finished."""
        for choice in self.choices:
            choice.steps = list(run(choice.generation))
            yield choice

    def result(self) -> dict[str, Any]:
        """The result, once all choices are finished."""
        best = self.choices
        if self._n_best is not None and self._n_best < len(best):
            best = sorted(best, key=_mean_logprob, reverse=True)[: self._n_best]
        shaped = [choice.whole(index) for index, choice in enumerate(best)]
        return {**self._head, "choices": shaped, "usage": self._usage()}

    def _usage(self) -> dict[str, Any]:
        return _usage_shape([choice.generation.usage for choice in self.choices])


def _mean_logprob(choice: Choice) -> float:
    values = [entry.logprob for entry in logprobs_of(choice.steps)]
    return sum(values) / len(values) if values else -math.inf


def _usage_shape(usages: Sequence[Usage]) -> dict[str, Any]:
    """The usage of several completions of one prompt, which counts once."""
    prompt = usages[0].prompt_tokens
    completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": usages[0].cached_tokens},
        "completion_tokens_details": {
            "accepted_prediction_tokens": sum(usage.accepted_tokens for usage in usages),
            "rejected_prediction_tokens": sum(usage.rejected_tokens for usage in usages),
        },
    }
