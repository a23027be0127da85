"""Logits that leave nothing to pick, or one token, or make no sense."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from llamacffi import Context, Model, SamplerChain, SamplingParams
from llamacffi.errors import (
    LlamaCffiError,
    SamplingError,
)
from tests.chains import picks

INF, NAN = math.inf, math.nan


ENDINGS: list[list[Any]] = [
    ["greedy"],
    ["dist"],
    [("top_k", {"k": 1}), "dist"],
    ["top_p", "min_p", "temperature", "dist"],
    ["typical", "dist"],
    ["top_n_sigma", "dist"],
    [("xtc", {"probability": 1.0}), "dist"],
    [("temperature", {"temperature": 0.0}), "dist"],
    ["mirostat"],
    ["mirostat_v2"],
    ["adaptive_p"],
    [("top_k", {"k": 40}), "infill", "greedy"],
]


@pytest.mark.parametrize("ending", ENDINGS, ids=str)
@pytest.mark.parametrize("how", ["logits", "processor", "bias"])
def test_every_token_is_banned(
    tiny_gpt2: Model, output: Context, ending: list[Any], how: str
) -> None:
    def ban(tokens: Any, logits: Any) -> None:
        logits[:] = -INF

    kept = output.logits().copy()
    chain = SamplerChain(tiny_gpt2)
    if how == "processor":
        chain.add(ban)
    elif how == "bias":
        chain.add("logit_bias", bias=dict.fromkeys(range(len(tiny_gpt2.vocab)), -INF))
    else:
        output.logits()[:] = -INF
    for sampler in ending:
        name, given = sampler if isinstance(sampler, tuple) else (sampler, {})
        chain.add(name, **given)
    chain = chain.with_seed(1)
    for _ in range(2):
        with pytest.raises(SamplingError, match="-inf"):
            chain.sample(output)
    output.logits()[:] = kept
    assert SamplerChain(tiny_gpt2, ["greedy"]).sample(output) == 7
    if how == "logits":
        assert 7 <= chain.sample(output) < len(tiny_gpt2.vocab)


@pytest.mark.parametrize("ending", ENDINGS, ids=str)
def test_one_token_is_left(tiny_gpt2: Model, output: Context, ending: list[Any]) -> None:
    output.logits()[np.arange(len(tiny_gpt2.vocab)) != 42] = -INF
    assert picks(SamplerChain(tiny_gpt2, ending), output, 3) == [42] * 3


@pytest.mark.parametrize("temperature", [1e-30, 1e-39, 1e-44, 1e-60])
def test_a_temperature_near_zero_is_greedy(
    tiny_gpt2: Model, output: Context, temperature: float
) -> None:
    for shift in (-100, 100):
        output.logits()[:] += shift
        chain = SamplingParams(temperature=temperature, seed=1).chain(tiny_gpt2)
        assert picks(chain, output, 3) == [7] * 3


@pytest.mark.parametrize("ending", ENDINGS, ids=str)
@pytest.mark.parametrize("value", [NAN, INF])
def test_senseless_logits_end_nothing(
    tiny_gpt2: Model, output: Context, ending: list[Any], value: float
) -> None:
    for place in (slice(None), slice(3, 200, 3), slice(0, 1)):
        output.logits()[place] = value
        for more in ([], [("grammar", {"grammar": "root ::= [a-z]*"})]):
            try:
                assert (
                    0
                    <= SamplerChain(tiny_gpt2, [*more, *ending]).sample(output)
                    < len(tiny_gpt2.vocab)
                )
            except LlamaCffiError as error:
                assert str(error)  # noqa: PT017
    output.logits()[:] = 0
    output.logits()[9] = 1
    assert SamplerChain(tiny_gpt2, ["greedy"]).sample(output) == 9
