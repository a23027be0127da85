"""Asking for completions in tests, and putting their streams together again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llamacffi import Llama

PROMPT = "The capital of France is"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6}


def complete(llama: Llama, prompt: Any = PROMPT, **parameters: Any) -> dict[str, Any]:
    result = llama.create_completion(prompt, **{**GREEDY, **parameters})
    assert isinstance(result, dict)
    return result


def stream(llama: Llama, prompt: Any = PROMPT, **parameters: Any) -> Iterator[dict[str, Any]]:
    result = llama.create_completion(prompt, **{**GREEDY, **parameters}, stream=True)
    assert not isinstance(result, dict)
    return result


def text_of(result: dict[str, Any]) -> str:
    return str(result["choices"][0]["text"])


def joined(chunks: Iterator[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """A stream's pieces of one choice, put together again."""
    whole: dict[str, Any] = {"text": "", "index": index, "logprobs": None, "finish_reason": None}
    for chunk in chunks:
        (piece,) = chunk["choices"]
        if piece["index"] != index:
            continue
        assert whole["finish_reason"] is None, "something came after the end"
        whole["text"] += piece["text"]
        whole["finish_reason"] = piece["finish_reason"]
        for key, values in (piece["logprobs"] or {}).items():
            whole["logprobs"] = whole["logprobs"] or {}
            whole["logprobs"].setdefault(key, []).extend(values)
    return whole
