"""Grammars beside chains: the pick is that of a vocabulary masked before the chain sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llamacffi import Context, Model, SamplerChain
from tests.grammars import applied, candidates, node_of, token_of

INF = math.inf


class Reference:
    """Asks the grammar about the whole vocabulary before the chain sees it."""

    def __init__(self, model: Model, samplers: Sequence[Any], grammar: str) -> None:
        self.model = model
        self.plain = SamplerChain(model, samplers)
        self.node = node_of(model, grammar)
        self.refusals = 0

    def pick(self, logits: NDArray[np.float32]) -> int:
        left, _ = applied(self.model, self.node, candidates(np.zeros_like(logits)))
        allowed = left["logit"][np.argsort(left["id"])] == 0
        _, token = applied(self.model, self.plain, candidates(logits))
        assert token is not None
        if not allowed[token]:
            self.refusals += 1
            _, token = applied(self.model, self.plain, candidates(logits)[allowed])
            assert token is not None
        self.plain.accept(token)
        library, error = self.model.library, self.model.library.new_error()
        library.lib.llamacffi_sampler_accept(self.node._handle.pointer, token, error)
        assert error.kind == 0
        return token


BIAS = ("logit_bias", {"bias": {65: -INF, 66: 3.0, 97: -4.0, 100: 2.5}})
SEED = {"seed": 11}
CHAINS: list[list[Any]] = [
    ["greedy"],
    [("penalties", {"repeat": 1.5, "presence": 2.0}), "greedy"],
    [BIAS, "greedy"],
    [("top_k", {"k": 1}), ("dist", SEED)],
    [("top_k", {"k": 5}), ("dist", SEED)],
    [("top_k", {"k": 40}), ("top_p", {"p": 0.9}), "temperature", ("dist", SEED)],
    [("top_k", {"k": 0}), ("dist", SEED)],
    [("top_k", {"k": 1000}), ("dist", SEED)],
    [("dist", SEED)],
    [BIAS, ("penalties", {"presence": 5.0}), ("top_k", {"k": 3}), ("dist", SEED)],
    [("dry", {"allowed_length": 1}), ("top_k", {"k": 2}), ("dist", SEED)],
    [("top_k", {"k": 20}), ("penalties", {"presence": 5.0}), ("dist", SEED)],
    [("top_n_sigma", {"n": 1.0}), ("top_k", {"k": 5}), ("dist", SEED)],
    [("typical", {"p": 0.3}), ("top_k", {"k": 5}), ("dist", SEED)],
    [("temperature", {"temperature": 2.0}), ("top_k", {"k": 4}), ("dist", SEED)],
    [("min_p", {"p": 0.2}), "greedy"],
    [("xtc", {"probability": 0.7, "threshold": 0.05, **SEED}), ("dist", SEED)],
    [("top_k", {"k": 30}), ("xtc", {"probability": 1.0, **SEED}), ("dist", SEED)],
    [("mirostat", SEED)],
    [("mirostat_v2", SEED)],
    [("top_k", {"k": 10}), ("adaptive_p", SEED)],
]
RULES = [
    'root ::= [a-f]+ ("x" | "y") root | "the" .*',
    "root ::= [^a-zA-Z]+ | [A-C] root",
    'root ::= "q" root | "z"',
    "root ::= .*",
]


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("samplers", CHAINS, ids=str)
def test_the_pick_is_that_of_a_masked_vocabulary(
    tiny_gpt2: Model, output: Context, samplers: list[Any], rules: str
) -> None:
    random = np.random.default_rng(len(rules))
    reference = Reference(tiny_gpt2, samplers, rules)
    chain = SamplerChain(tiny_gpt2, [("grammar", {"grammar": rules}), *samplers])
    logits = output.logits()
    for spread in (0.1, 1, 3, 10, 30, 3, 1, 0.1):
        logits[:] = random.normal(0, spread, logits.size)
        wanted = reference.pick(logits)
        assert chain.sample(output) == wanted
        if tiny_gpt2.vocab.is_eog(wanted):
            break
    assert reference.refusals or rules == "root ::= .*"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0.01, 50),
    samplers=st.sampled_from(CHAINS),
    rules=st.sampled_from(RULES),
    banned=st.sets(st.integers(0, 270), max_size=60),
)
def test_the_pick_of_any_logits(
    tiny_gpt2: Model, seed: int, spread: float, samplers: list[Any], rules: str, banned: set[int]
) -> None:
    if samplers[0][0] in ("typical", "mirostat", "mirostat_v2") or rules == RULES[2]:
        banned = set()  # upstream's entropy is NaN with a -inf; and "q" or "z" could be banned
    with tiny_gpt2.context(n_ctx=16, n_threads=1) as context:
        context.decode_tokens([5])
        logits = context.logits()
        logits[:] = np.random.default_rng(seed).normal(0, spread, logits.size)
        logits[list(banned)] = -INF
        reference = Reference(tiny_gpt2, samplers, rules)
        chain = SamplerChain(tiny_gpt2, [*samplers, ("grammar", {"grammar": rules})])
        assert chain.sample(context) == reference.pick(logits)


def test_the_best_allowed_token_may_be_the_worst_of_all(tiny_gpt2: Model, output: Context) -> None:
    """Behind every block of candidates that the grammar is asked about."""
    logits = output.logits()
    for letter in "qz":
        for samplers in ([("top_k", {"k": 1}), "dist"], ["greedy"]):
            logits[:] = np.arange(logits.size)
            logits[token_of(tiny_gpt2, letter)] = -1000
            grammar = {"grammar": f'root ::= "{letter}"'}
            chain = SamplerChain(tiny_gpt2, [("grammar", grammar), *samplers])
            assert chain.sample(output) == token_of(tiny_gpt2, letter)


def test_the_pick_of_the_real_model(model: Model, decoded: Context) -> None:
    rules = 'root ::= " " [a-z]+ [,.] root | " " [A-Z] [a-z]* "!"'
    reference = Reference(model, [("top_k", {"k": 40}), ("dist", SEED)], rules)
    chain = SamplerChain(model, [("top_k", {"k": 40}), ("dist", SEED)])
    chain.add("grammar", grammar=rules)
    position = decoded.memory.position_max(0) + 1
    for step in range(10):
        token = chain.sample(decoded)
        assert token == reference.pick(decoded.logits()), f"token {step}"
        if model.vocab.is_eog(token):
            break
        decoded.decode_token(token, position + step)
    assert reference.refusals > 1
