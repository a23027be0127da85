"""Saved states in tests: a context with something to save, going on from it, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llamacffi import Context, Model
from llamacffi.errors import StateError

__all__ = ["OPTIONS", "TOKENS", "greedy", "refused", "remembering"]


OPTIONS: dict[str, Any] = {"n_ctx": 128, "n_threads": 1}
TOKENS = [5, 200, 7, 9, 11, 30, 31, 32, 33, 34] * 4


def remembering(tiny_llama: Model) -> Iterator[Context]:
    """A context that remembers TOKENS; a fixture, where a test file makes it one."""
    with tiny_llama.context(**OPTIONS) as made:
        made.decode_tokens(TOKENS)
        yield made


def greedy(context: Context, first: int, count: int, sequence: int = 0) -> list[int]:
    """The most probable tokens after a first one."""
    found = [first]
    for _ in range(count):
        context.decode_token(found[-1], context.memory.position_max(sequence) + 1, sequence)
        found.append(int(context.logits().argmax()))
    return found


def refused(context: Context, data: Any, words: str, sequence: int | None = None) -> None:
    """Loading this is an error with these words, and changes nothing."""
    before = context.memory.tokens(), context.save_state()
    with pytest.raises(StateError, match=words):
        context.load_state(data, sequence)
    assert (context.memory.tokens(), context.save_state()) == before, "something has changed"
