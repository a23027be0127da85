"""Chat completions in OpenAI's shape: as a whole, or in chunks as they are generated."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from llamacffi.answer import Answer
from llamacffi.generation import Generation, Step, logprobs_of
from llamacffi.logprob_shapes import chat_logprobs
from llamacffi.vocab import Vocab

__all__ = ["ChatChoice", "chat_completion_head"]


class ChatChoice:
    """One of the answers to a conversation.

    Args:
        index: Its place in the result.
        vocab: The model's vocabulary.
        generation: What makes the text.
        answer: What turns the text into a message.
        logprobs: Report log probabilities.
    """

    def __init__(
        self, index: int, vocab: Vocab, generation: Generation, answer: Answer, logprobs: bool
    ) -> None:
        self.generation = generation
        self._index = index
        self._vocab = vocab
        self._answer = answer
        self._logprobs = logprobs
        self.steps: Sequence[Step] = ()
        self._opened = False
        self._called = False

    def push(self, step: Step) -> list[dict[str, Any]]:
        """What a step adds to a stream; the first one brings the role, too."""
        chunks = self._opening()
        delta = self._answer.push(step.text)
        self._called = self._called or "tool_calls" in delta
        if delta or (self._logprobs and step.logprobs is not None):
            chunks.append(self._chunk(delta, [step]))
        return chunks

    def close(self) -> list[dict[str, Any]]:
        """What ends its stream; the last chunk has the finish reason."""
        chunks = self._opening()
        rest = self._answer.finish(self._cut)
        self._called = self._called or "tool_calls" in rest
        if rest:
            chunks.append(self._chunk(rest, []))
        return [*chunks, {**self._chunk({}, []), "finish_reason": self._reason(self._called)}]

    def whole(self, index: int) -> dict[str, Any]:
        """The finished choice, at a place in the result."""
        self._answer.text = "".join(step.text for step in self.steps)
        message = self._answer.message(self._cut)
        return {
            "index": index,
            "message": message,
            "logprobs": self._shaped(self.steps),
            "finish_reason": self._reason("tool_calls" in message),
        }

    @property
    def _cut(self) -> bool:
        return self.generation.finish_reason == "length"

    def _reason(self, called: bool) -> str | None:
        reason = self.generation.finish_reason
        return "tool_calls" if called and reason == "stop" else reason

    def _opening(self) -> list[dict[str, Any]]:
        if self._opened:
            return []
        self._opened = True
        return [self._chunk({"role": "assistant", "content": ""}, [])]

    def _chunk(self, delta: dict[str, Any], steps: Sequence[Step]) -> dict[str, Any]:
        return {
            "index": self._index,
            "delta": delta,
            "logprobs": self._shaped(steps),
            "finish_reason": None,
        }

    def _shaped(self, steps: Sequence[Step]) -> dict[str, Any] | None:
        entries = logprobs_of(steps)
        if not self._logprobs or not entries:
            return None
        return chat_logprobs(entries, self._vocab, [])


def chat_completion_head(model: str, kind: str) -> dict[str, Any]:
    """What a result and all chunks of its stream have in common."""
    return {
        "id": f"chatcmpl-{uuid.uuid4()}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }
