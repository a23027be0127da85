"""Log probabilities against a log-softmax in double precision over the whole vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacffi import Context, Model
from llamacffi.logprobs import token_logprobs

TOLERANCE = 1e-4


def log_softmax(logits: Any) -> Any:
    wide = logits.astype(np.float64)
    wide -= wide.max()
    return wide - np.log(np.exp(wide).sum())


def test_of_the_model(model: Model, context: Context) -> None:
    context.decode_tokens(model.vocab.tokenize("The capital of France is"))
    logits = context.logits()
    wanted, before = log_softmax(logits), logits.copy()
    for token in (0, 17, int(wanted.argmax()), int(wanted.argmin()), logits.size - 1):
        found = token_logprobs(logits, token, 5)
        assert found.token == token
        assert found.logprob == pytest.approx(wanted[token], abs=TOLERANCE)
        best = np.argsort(-wanted, kind="stable")[:5]
        assert [index for index, _ in found.top] == best.tolist()
        assert [value for _, value in found.top] == pytest.approx(wanted[best], abs=TOLERANCE)
    assert np.array_equal(logits, before), "the logits were changed"


@given(st.integers(0, 2**32 - 1), st.integers(1, 2000), st.floats(0.01, 50), st.integers(0, 30))
def test_of_random_numbers(seed: int, size: int, scale: float, count: int) -> None:
    random = np.random.default_rng(seed)
    logits = (random.standard_normal(size) * scale).astype(np.float32)
    token = int(random.integers(size))
    found, wanted = token_logprobs(logits, token, count), log_softmax(logits)
    assert found.logprob == pytest.approx(wanted[token], abs=TOLERANCE)
    assert len(found.top) == min(count, size)
    values = [value for _, value in found.top]
    assert values == sorted(values, reverse=True)
    assert values == pytest.approx(np.sort(wanted)[::-1][: len(values)], abs=TOLERANCE)


def test_a_large_vocabulary_keeps_its_digits() -> None:
    logits = np.zeros(262_144, np.float32)
    assert token_logprobs(logits, 3, 0).logprob == pytest.approx(-np.log(262_144), abs=1e-6)


def test_banned_tokens() -> None:
    logits = np.array([1.0, -np.inf, 0.0, -np.inf], np.float32)
    found = token_logprobs(logits, 1, 4)
    assert found.logprob == -np.inf
    assert [token for token, _ in found.top][:2] == [0, 2]


def test_everything_banned_is_defined() -> None:
    found = token_logprobs(np.full(8, -np.inf, np.float32), 1, 2)
    assert not found.logprob > -np.inf
