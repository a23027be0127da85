"""Results in OpenAI's shape of a text completion, whole and streamed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from llamacffi.generation import Generation, Step, logprobs_of
from llamacffi.logprob_shapes import Offsets, prompt_offsets
from llamacffi.logprobs import TokenLogprobs
from llamacffi.vocab import Vocab

__all__ = ["CompletionChoice", "completion_head"]

# Log probabilities of tokens that begin at these offsets, in a shape of OpenAI's; a bare token id
# stands for one without, the first of a prompt.
LogprobShape = Callable[[Sequence["TokenLogprobs | int"], Vocab, Sequence[int]], "dict[str, Any]"]


class CompletionChoice:
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
        self.steps: Sequence[Step] = ()
        self._waiting: list[Step] = []
        self._opened = not echo

    def push(self, step: Step) -> list[dict[str, Any]]:
        """What a step adds to a stream; the first one brings the prompt, too, if it is echoed."""
        pieces = self._opening()
        self._waiting.append(step)
        if step.text:
            pieces.append(self._continued(step.text, None))
        return pieces

    def close(self) -> list[dict[str, Any]]:
        """What ends its stream."""
        return [*self._opening(), self._continued("", self.generation.finish_reason)]

    def whole(self, index: int) -> dict[str, Any]:
        """The finished choice, at a place of its own in the result."""
        self._index = index
        text = "".join(step.text for step in self.steps)
        entries: list[TokenLogprobs | int] = [*logprobs_of(self.steps)]
        offsets = self._places(entries)
        if self._echo:
            text = self._before + text
            offsets = self._prompt_places() + offsets
            entries = [*self._scored(), *entries]
        return self._piece(text, self.generation.finish_reason, entries, offsets)

    def _opening(self) -> list[dict[str, Any]]:
        if self._opened:
            return []
        self._opened = True
        return [self._piece(self._before, None, self._scored(), self._prompt_places())]

    def _continued(self, text: str, reason: str | None) -> dict[str, Any]:
        entries = logprobs_of(self._waiting)
        self._waiting = []
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


def completion_head(model: str) -> dict[str, Any]:
    """What a result and all pieces of its stream have in common."""
    return {
        "id": f"cmpl-{uuid.uuid4()}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }
