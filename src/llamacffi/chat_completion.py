"""Chat completions in OpenAI's shape: as a whole, or in chunks as they are generated."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from llamacffi.answer import Answer
from llamacffi.generation import Generation, Step
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
        self._steps: list[Step] = []

    def chunks(self, steps: Iterable[Step]) -> Iterator[dict[str, Any]]:
        """The choice piece by piece; the last one has the finish reason."""
        yield self._chunk({"role": "assistant", "content": ""}, [])
        called = False
        for step in steps:
            delta = self._answer.push(step.text)
            called = called or "tool_calls" in delta
            if delta or (self._logprobs and step.logprobs is not None):
                yield self._chunk(delta, [step])
        rest = self._answer.finish(self._cut)
        called = called or "tool_calls" in rest
        if rest:
            yield self._chunk(rest, [])
        yield {**self._chunk({}, []), "finish_reason": self._reason(called)}

    def finish(self, steps: Iterable[Step]) -> None:
        """Take all steps."""
        self._steps = list(steps)
        self._answer.text = "".join(step.text for step in self._steps)

    def whole(self) -> dict[str, Any]:
        """The finished choice."""
        message = self._answer.message(self._cut)
        return {
            "index": self._index,
            "message": message,
            "logprobs": self._shaped(self._steps),
            "finish_reason": self._reason("tool_calls" in message),
        }

    @property
    def _cut(self) -> bool:
        return self.generation.finish_reason == "length"

    def _reason(self, called: bool) -> str | None:
        reason = self.generation.finish_reason
        return "tool_calls" if called and reason == "stop" else reason

    def _chunk(self, delta: dict[str, Any], steps: list[Step]) -> dict[str, Any]:
        return {
            "index": self._index,
            "delta": delta,
            "logprobs": self._shaped(steps),
            "finish_reason": None,
        }

    def _shaped(self, steps: list[Step]) -> dict[str, Any] | None:
        entries = [step.logprobs for step in steps if step.logprobs is not None]
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
