"""The chain: its order, what it picks, and what it has seen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from llamacffi import Context, Model, SamplerChain
from llamacffi.errors import (
    InvalidTokenError,
    LlamaCffiError,
    ParameterError,
)

INF = math.inf


def test_a_chain_prints_itself(model: Model) -> None:
    def careful(tokens: Any, logits: Any) -> None: ...

    chain = SamplerChain(model, [("top_k", {"k": 5}), careful]).add("dist", seed=3)
    assert repr(chain) == "SamplerChain(careful -> top_k(k=5) -> dist(seed=3))"
    assert len(chain) == 3


@pytest.mark.parametrize(
    "samplers",
    [
        [],
        ["top_k"],
        [("top_k", {"k": 0})],
        [("top_p", {"p": 1.0})],
        ["typical"],
        ["penalties"],
        [("dry", {"multiplier": 0.0})],
        [("xtc", {"probability": 0.0})],
        [("logit_bias", {"bias": {}})],
        [("top_n_sigma", {"n": -1.0})],
        ["temperature"],
        ["dist", "top_k"],
        [lambda tokens, logits: None],
    ],
)
def test_a_chain_that_picks_no_token(model: Model, decoded: Context, samplers: list[Any]) -> None:
    """A sampler with parameters that turn it off is no selector either."""
    chain = SamplerChain(model, samplers)
    with pytest.raises(ParameterError, match="dist"):
        chain.check()


def test_sampling_with_an_unfinished_chain_does_not_kill(model: Model, decoded: Context) -> None:
    with pytest.raises(LlamaCffiError):
        SamplerChain(model, ["top_k"]).sample(decoded)
    assert SamplerChain(model, ["greedy"]).sample(decoded) == decoded.logits().argmax()


def test_greedy_is_the_argmax(model: Model, decoded: Context) -> None:
    assert SamplerChain(model, ["greedy"]).sample(decoded) == int(decoded.logits().argmax())


def test_a_clone_goes_its_own_way(model: Model, decoded: Context) -> None:
    chain = SamplerChain(model, [("dist", {"seed": 5})])
    chain.sample(decoded)
    copy = chain.clone()
    assert repr(copy) == repr(chain)
    mine = [chain.sample(decoded) for _ in range(8)]
    assert [copy.sample(decoded) for _ in range(8)] == mine
    chain.close()
    assert copy.sample(decoded) >= 0


def test_reset_starts_anew(model: Model, decoded: Context) -> None:
    chain = SamplerChain(model, [("dist", {"seed": 5})])
    first = [chain.sample(decoded) for _ in range(8)]
    assert [chain.sample(decoded) for _ in range(8)] != first
    chain.reset()
    assert [chain.sample(decoded) for _ in range(8)] == first
    assert chain.seed == 5


def test_a_drawn_seed_is_known_and_repeats(model: Model, decoded: Context) -> None:
    chain = SamplerChain(model, ["dist"])
    first = [chain.sample(decoded) for _ in range(8)]
    again = SamplerChain(model, [("dist", {"seed": chain.seed})])
    assert [again.sample(decoded) for _ in range(8)] == first


def test_penalties_see_the_prompt_and_what_came_out(model: Model, decoded: Context) -> None:
    best = int(decoded.logits().argmax())
    chain = SamplerChain(model, [("penalties", {"last_n": -1, "presence": 100.0}), "greedy"])
    assert chain.sample(decoded) == best
    assert chain.sample(decoded) != best, "the token it picked was not accepted"
    chain.reset()
    chain.accept_prompt([best])
    assert chain.sample(decoded) != best
    chain.reset()
    chain.accept(best)
    assert chain.sample(decoded) != best


@pytest.mark.parametrize("token", [-1, 10**9, 49_152])
def test_accepting_what_is_no_token(model: Model, token: int) -> None:
    chain = SamplerChain(model, [("penalties", {"repeat": 1.5}), "greedy"])
    with pytest.raises(InvalidTokenError):
        chain.accept(token)
    with pytest.raises(InvalidTokenError):
        chain.accept_prompt([token])


def test_top_n_sigma_and_bias_reach_the_distribution(model: Model, decoded: Context) -> None:
    best = int(decoded.logits().argmax())
    banned = SamplerChain(model, [("logit_bias", {"bias": {best: -INF}}), "greedy"])
    assert banned.sample(decoded) == int(np.argsort(decoded.logits())[-2])
    lifted = SamplerChain(model, [("logit_bias", {"bias": {777: 1000.0}}), ("dist", {"seed": 1})])
    assert lifted.sample(decoded) == 777
    narrow = SamplerChain(model, [("top_k", {"k": 1}), ("dist", {"seed": 1})])
    assert narrow.sample(decoded) == best
