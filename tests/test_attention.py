"""Attention over batches of any length: two ways to compute it agree.

A patch of ours (attention-of-short-batches.diff) has ggml's tiles take batches of 8 tokens and more.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from llamacffi import Context, Model
from tests.conftest import N_THREADS

N_BEFORE = 130  # more than two tiles of keys, and not a whole number of them
LENGTHS = (1, 2, 7, 8, 9, 11, 16, 31, 63, 64, 65, 70)


@pytest.fixture(scope="module")
def contexts(model: Model) -> Iterator[dict[str, Context]]:
    made = {
        way: model.context(n_ctx=256, n_threads=N_THREADS, flash_attention=way)
        for way in ("on", "off")
    }
    yield made
    for context in made.values():
        context.close()


@pytest.mark.parametrize("length", LENGTHS)
def test_flash_attention_agrees(model: Model, contexts: dict[str, Context], length: int) -> None:
    text = "The old ship sailed over the sea, and nobody knew where it would go. " * 16
    tokens = model.vocab.tokenize(text)[: N_BEFORE + length]
    assert len(tokens) == N_BEFORE + length
    logits = {}
    for way, context in contexts.items():
        context.memory.clear()
        context.decode_tokens(tokens[:N_BEFORE])
        context.decode_tokens(tokens[N_BEFORE:])
        logits[way] = context.logits().copy()
    spread = float(logits["off"].std())
    assert np.abs(logits["on"] - logits["off"]).max() < 0.1 * spread
