"""Batches times weights of type Q4_1: what their tokens give one by one, to the last digit.

A patch of ours, batches-of-q4_1.diff, computes them by tiles of four rows and two or four columns.
"""

from __future__ import annotations

import numpy as np
import pytest

from llamacffi import Model
from tests.conftest import N_THREADS

TEXT = "The old ship sailed over the sea, and nobody knew where it would go next. " * 3


@pytest.mark.parametrize("n_threads", [1, N_THREADS])
@pytest.mark.parametrize("length", [2, 3, 4, 5, 7, 8, 16, 30, 31])
def test_at_once_and_one_by_one(model: Model, length: int, n_threads: int) -> None:
    assert "Q4_1" in model.description, model.description
    tokens = model.vocab.tokenize(TEXT)[:length]
    with model.context(n_ctx=64, n_threads=n_threads, flash_attention="on") as context:
        context.decode_tokens(tokens, outputs="all")
        at_once = [context.logits(row).copy() for row in range(length)]
        context.memory.clear()
        for position, token in enumerate(tokens):
            context.decode_token(token, position)
            np.testing.assert_array_equal(at_once[position], context.logits())
