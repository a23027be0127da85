"""Results in OpenAI's shape of a text completion, whole and streamed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from llamacffi.generation import Generation, Step, Usage
from llamacffi.logprobs import TokenLogprobs

__all__ = ["Choice", "completion_head", "usage_shape"]

# Log probabilities of tokens, the first of which begins after so many characters, in a shape of
# OpenAI's; a bare token id stands for one without, the first of a prompt.
LogprobShape = Callable[[Sequence["TokenLogprobs | int"], int], "dict[str, Any]"]


class Choice:
    """One of the choices of a result.

    Args:
        index: Its place among them.
        generation: What makes its text.
        before: The text in front of the generated one; it counts in offsets.
        echo: Whether it is part of the result.
        scored: The entries of its tokens, to be reported with it; may be filled later.
        shape: Shapes log probabilities; None to report none.
    """

    def __init__(
        self,
        index: int,
        generation: Generation,
        before: str,
        echo: bool,
        scored: Callable[[], Sequence[TokenLogprobs | int]],
        shape: LogprobShape | None,
    ) -> None:
        self._index = index
        self.generation = generation
        self._before = before
        self._echo = echo
        self._scored = scored
        self._shape = shape
        self._offset = len(before)
        self._steps: list[Step] = []

    def pieces(self, steps: Iterable[Step]) -> Iterator[dict[str, Any]]:
        """What a stream brings: pieces of the text as the steps come, then the reason to end."""
        waiting: list[Step] = []
        opened = not self._echo
        for step in steps:
            if not opened:
                yield self._piece(self._before, None, self._scored(), 0)
                opened = True
            waiting.append(step)
            if step.text:
                yield self._continued(step.text, None, waiting)
                waiting = []
        if not opened:
            yield self._piece(self._before, None, self._scored(), 0)
        yield self._continued("", self.generation.finish_reason, waiting)

    def finish(self, steps: Iterable[Step]) -> None:
        """Take all steps."""
        self._steps = list(steps)

    def whole(self, index: int) -> dict[str, Any]:
        """The finished choice, at a place of its own in the result."""
        self._index = index
        text = "".join(step.text for step in self._steps)
        reason = self.generation.finish_reason
        entries = _entries(self._steps)
        if not self._echo:
            return self._piece(text, reason, entries, self._offset)
        scored = self._scored()
        start = 0 if scored else self._offset
        return self._piece(self._before + text, reason, [*scored, *entries], start)

    @property
    def mean_logprob(self) -> float:
        """Of the generated tokens, 0.0 if there are none; to choose the best."""
        values = [entry.logprob for entry in _entries(self._steps)]
        return sum(values) / len(values) if values else 0.0

    def _continued(self, text: str, reason: str | None, steps: list[Step]) -> dict[str, Any]:
        piece = self._piece(text, reason, _entries(steps), self._offset)
        self._offset += sum(map(len, (piece["logprobs"] or {}).get("tokens", ())))
        return piece

    def _piece(
        self,
        text: str,
        finish_reason: str | None,
        entries: Sequence[TokenLogprobs | int],
        offset: int,
    ) -> dict[str, Any]:
        shaped = self._shape(entries, offset) if self._shape is not None and entries else None
        return {
            "text": text,
            "index": self._index,
            "logprobs": shaped,
            "finish_reason": finish_reason,
        }


def _entries(steps: Iterable[Step]) -> list[TokenLogprobs]:
    return [step.logprobs for step in steps if step.logprobs is not None]


def completion_head(model: str) -> dict[str, Any]:
    """What a result and all pieces of its stream have in common."""
    return {
        "id": f"cmpl-{uuid.uuid4()}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }


def usage_shape(usages: Sequence[Usage]) -> dict[str, Any]:
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
