"""Results in OpenAI's shape of a text completion, whole and streamed."""

from __future__ import annotations

import time
import uuid
from typing import Any

from llamacffi.generation import Step, Usage
from llamacffi.logprobs import TokenLogprobs
from llamacffi.vocab import Vocab

__all__ = ["CompletionShape"]


class CompletionShape:
    """Builds the dictionaries of one completion.

    Args:
        model: The model's name in the results.
        vocab: Names the tokens in log probabilities.
        offset: Characters before the first generated one, for `text_offset`.
    """

    def __init__(self, model: str, vocab: Vocab, offset: int = 0) -> None:
        self._vocab = vocab
        self._offset = offset
        self._head = {
            "id": f"cmpl-{uuid.uuid4()}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def chunk(self, text: str, finish_reason: str | None, steps: list[Step]) -> dict[str, Any]:
        """One piece of a stream; steps are those whose log probabilities it carries."""
        choice = {
            "text": text,
            "index": 0,
            "logprobs": self._logprobs(steps),
            "finish_reason": finish_reason,
        }
        return {**self._head, "choices": [choice]}

    def whole(
        self, text: str, finish_reason: str | None, steps: list[Step], usage: Usage
    ) -> dict[str, Any]:
        """The whole result, with the usage."""
        return {
            **self.chunk(text, finish_reason, steps),
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.total_tokens,
            },
        }

    def _logprobs(self, steps: list[Step]) -> dict[str, Any] | None:
        entries = [step.logprobs for step in steps if step.logprobs is not None]
        if not entries:
            return None
        result: dict[str, list[Any]] = {
            "tokens": [],
            "text_offset": [],
            "token_logprobs": [],
            "top_logprobs": [],
        }
        for entry in entries:
            text = self._spell(entry.token)
            result["tokens"].append(text)
            result["text_offset"].append(self._offset)
            result["token_logprobs"].append(entry.logprob)
            result["top_logprobs"].append(self._top(entry, text))
            self._offset += len(text)
        return result

    def _top(self, entry: TokenLogprobs, text: str) -> dict[str, float]:
        top = {self._spell(token): logprob for token, logprob in entry.top}
        top.setdefault(text, entry.logprob)  # the chosen token is always among them
        return top

    def _spell(self, token: int) -> str:
        return self._vocab.token_to_piece(token, special=True).decode("utf-8", "replace")
