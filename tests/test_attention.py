"""Attention behind a long text: a batch of any length gives what its tokens give one by one.

Two patches of ours are at work: attention-of-short-batches.diff has batches of 8 to 63 tokens take
ggml's tiles; attention-in-blocks.diff computes the others some dozen cells at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from llamacffi import Context, Model
from llamacffi.decoding import LONG_TEXT
from tests.conftest import N_THREADS

N_BEFORE = LONG_TEXT + 37  # not a whole number of tiles
TEXT = "The old ship sailed over the sea, and nobody knew where it would go. " * 30


@pytest.fixture(scope="module")
def contexts(model: Model) -> Iterator[list[Context]]:
    settings = {"n_ctx": 512, "n_threads": N_THREADS, "flash_attention": "on"}
    made = [model.context(**settings) for _ in range(2)]
    tokens = model.vocab.tokenize(TEXT)[:N_BEFORE]
    for context in made:
        context.decode_tokens(tokens)
    yield made
    for context in made:
        context.close()


@pytest.mark.parametrize("length", [1, 7, 8, 9, 20, 33, 63, 64, 70])
def test_at_once_and_one_by_one(model: Model, contexts: list[Context], length: int) -> None:
    tokens = model.vocab.tokenize(TEXT)[N_BEFORE : N_BEFORE + length]
    assert len(tokens) == length
    at_once, one_by_one = contexts
    for context in contexts:
        context.memory.remove(0, N_BEFORE)
    at_once.decode_tokens(tokens)
    for position, token in enumerate(tokens, N_BEFORE):
        one_by_one.decode_token(token, position)
    # Quantised weights blow the last digits up: any two ways differ by 2 to 12% of the spread.
    difference = np.abs(at_once.logits() - one_by_one.logits())
    assert difference.mean() < 0.2 * one_by_one.logits().std()
    assert at_once.logits().argmax() == one_by_one.logits().argmax()
