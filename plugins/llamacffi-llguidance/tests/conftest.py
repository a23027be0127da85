"""What the tests share: the real model, and walking through a grammar at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import llamacffi
from llamacffi import Llama, Model

ENDING = (b'"', b"]", b"}", b", ", b",")
Allowed = Callable[[Any, list[int]], list[int]]


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    with Model("smollm2", backend="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="session")
def llama() -> Iterator[Llama]:
    with Llama("smollm2", backend="cpu", n_ctx=512, n_threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def create() -> Callable[..., Any]:
    """The sampler's `create`, as a chain finds it."""
    return llamacffi.samplers()["llguidance"].create


@pytest.fixture(scope="session")
def allowed(model: Model) -> Allowed:
    """A function: the tokens that a processor leaves after a sequence."""

    def ask(processor: Any, tokens: list[int]) -> list[int]:
        logits = np.zeros(model.vocab.n_tokens, np.float32)
        processor(np.array(tokens, np.intc), logits)
        left: list[int] = np.flatnonzero(np.isfinite(logits)).tolist()
        return left

    return ask


@pytest.fixture(scope="session")
def wander(model: Model, allowed: Allowed) -> Callable[..., str]:
    """A function: a text of random allowed tokens, ended as soon as the grammar lets it."""

    pieces = map(model.vocab.token_to_piece, range(model.vocab.n_tokens))
    endings = [token for token, piece in enumerate(pieces) if piece in ENDING]
    ends = {token for token in range(model.vocab.n_tokens) if model.vocab.is_eog(token)}

    def walk(processor: Any, seed: int, most: int = 400) -> str:
        choose = random.Random(seed)
        processor.begin([1])
        tokens = [1]
        for _ in range(most):
            left = allowed(processor, tokens)
            if not ends.isdisjoint(left):
                return model.vocab.detokenize(tokens[1:])
            ending = set(endings).intersection(left)
            chosen = sorted(ending) if ending and choose.random() < 0.5 else left
            tokens.append(choose.choice(chosen))
        raise AssertionError("the text does not end")

    return walk
