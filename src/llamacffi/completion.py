"""Results in OpenAI's shape of a text completion, whole and streamed."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from llamacffi.generation import Generation, Step, Usage
from llamacffi.logprob_shapes import Offsets, prompt_offsets
from llamacffi.logprobs import TokenLogprobs
from llamacffi.vocab import Vocab

__all__ = ["Choice", "completion_head", "usage_shape"]

# Log probabilities of tokens that begin at these offsets, in a shape of OpenAI's; a bare token id
# stands for one without, the first of a prompt.
LogprobShape = Callable[[Sequence["TokenLogprobs | int"], Vocab, Sequence[int]], "dict[str, Any]"]


class Choice:
    """One of the choices of a result.

    Args:
        index: Its place among them.
        vocab: Spells the tokens.
        generation: What makes its text.
        before: The text in front of the generated one; it counts in offsets.
        echo: Whether it is part of the result.
        scored: The entries of its tokens, to be reported with it; may be filled later.
        shape: Shapes log probabilities; None to report none.
    """

    def __init__(
        self,
        index: int,
        vocab: Vocab,
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
        self._vocab = vocab
        self._offsets = Offsets(vocab, len(before))
        self._steps: list[Step] = []

    def pieces(self, steps: Iterable[Step]) -> Iterator[dict[str, Any]]:
        """What a stream brings: pieces of the text as the steps come, then the reason to end."""
        waiting: list[Step] = []
        opened = not self._echo
        for step in steps:
            if not opened:
                yield self._opening()
                opened = True
            waiting.append(step)
            if step.text:
                yield self._continued(step.text, None, waiting)
                waiting = []
        if not opened:
            yield self._opening()
        yield self._continued("", self.generation.finish_reason, waiting)

    def finish(self, steps: Iterable[Step]) -> None:
        """Take all steps."""
        self._steps = list(steps)

    def whole(self, index: int) -> dict[str, Any]:
        """The finished choice, at a place of its own in the result."""
        self._index = index
        text = "".join(step.text for step in self._steps)
        entries: list[TokenLogprobs | int] = [*_entries(self._steps)]
        offsets = self._places(entries)
        if self._echo:
            text = self._before + text
            offsets = self._prompt_places() + offsets
            entries = [*self._scored(), *entries]
        return self._piece(text, self.generation.finish_reason, entries, offsets)

    @property
    def mean_logprob(self) -> float:
        """Of the generated tokens, -inf if there are none; to choose the best."""
        values = [entry.logprob for entry in _entries(self._steps)]
        return sum(values) / len(values) if values else -math.inf

    def _opening(self) -> dict[str, Any]:
        return self._piece(self._before, None, self._scored(), self._prompt_places())

    def _continued(self, text: str, reason: str | None, steps: list[Step]) -> dict[str, Any]:
        entries = _entries(steps)
        return self._piece(text, reason, entries, self._places(entries))

    def _places(self, entries: Sequence[TokenLogprobs | int]) -> list[int]:
        return list(self._offsets.of([_token(entry) for entry in entries]))

    def _prompt_places(self) -> list[int]:
        tokens = [_token(entry) for entry in self._scored()]
        return prompt_offsets(self._vocab, tokens, len(self._before))

    def _piece(
        self,
        text: str,
        finish_reason: str | None,
        entries: Sequence[TokenLogprobs | int],
        offsets: Sequence[int],
    ) -> dict[str, Any]:
        shaped = None
        if self._shape is not None and entries:
            shaped = self._shape(entries, self._vocab, offsets)
        return {
            "text": text,
            "index": self._index,
            "logprobs": shaped,
            "finish_reason": finish_reason,
        }


def _token(entry: TokenLogprobs | int) -> int:
    return entry if isinstance(entry, int) else entry.token


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
