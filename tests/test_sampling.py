"""Samplers: every one by name, the chain, seeds, processors, grammars, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import llamacffi
from llamacffi import Context, Llama, Model, NativeNode, SamplerChain, SamplingParams
from llamacffi.errors import (
    ClosedError,
    InvalidTokenError,
    LlamaCffiError,
    ParameterError,
    PluginError,
)
from tests.chains import PROMPT, text_of
from tests.tiny_models import write_model

INF, NAN = math.inf, math.nan

SELECTING = ("greedy", "dist", "mirostat", "mirostat_v2", "adaptive_p")
# name: parameters at and near the edges of what makes sense
ACCEPTED: dict[str, list[dict[str, Any]]] = {
    "greedy": [{}],
    "dist": [{}, {"seed": 0}, {"seed": 2**32 - 2}, {"seed": -5}, {"seed": 2**40}],
    "top_k": [{}, {"k": 0}, {"k": 1}, {"k": 2**31 - 1}],
    "top_p": [{}, {"p": 0.0}, {"p": 1.0}, {"p": 1e-9, "min_keep": 5}, {"min_keep": 0}],
    "min_p": [{}, {"p": 0.0}, {"p": 1.0}, {"min_keep": 100_000}],
    "typical": [{}, {"p": 0.0}, {"p": 0.2, "min_keep": 3}],
    "temperature": [{}, {"temperature": 0.0}, {"temperature": 1e30}, {"delta": 0.5},
                    {"temperature": 1.0, "delta": 5.0, "exponent": -1.0}],
    "penalties": [{}, {"repeat": 1.3}, {"last_n": 0, "repeat": 2.0}, {"last_n": -1, "repeat": 1.1},
                  {"frequency": -2.0, "presence": 2.0}, {"repeat": 1e-3}],
    "dry": [{}, {"multiplier": 0.0}, {"breakers": ()}, {"breakers": ("é", "\n\n")}, {"last_n": 0},
            {"allowed_length": 0, "base": 1.0}],
    "xtc": [{}, {"probability": 1.0, "threshold": 0.0}, {"probability": 0.0}, {"threshold": 1.0}],
    "top_n_sigma": [{}, {"n": 0.0}, {"n": -1.0}, {"n": 1e6}],
    "mirostat": [{}, {"m": 1}, {"m": 2**20}, {"tau": 0.0}, {"eta": 0.0, "seed": 1}],
    "mirostat_v2": [{}, {"tau": 0.0}, {"tau": 1e6, "eta": 0.0}],
    "adaptive_p": [{}, {"target": 0.0}, {"target": 1.0, "decay": 0.99, "seed": 3}, {"decay": 0.0}],
    "infill": [{}],
    "json_schema": [{"json_schema": {"type": "integer"}}, {"json_schema": '{"type": "boolean"}'}],
    "logit_bias": [{"bias": {}}, {"bias": {0: -INF, 49_151: 5.0}}],
    "grammar": [{"grammar": 'root ::= [a-z ]+ "."'}, {"grammar": 'x ::= " a"', "root": "x"}],
}  # fmt: skip
REFUSED: list[tuple[str, dict[str, Any], type[Exception]]] = [
    ("top_k", {"k": -1}, ParameterError),
    ("top_k", {"k": 2**31}, ParameterError),
    ("top_k", {"k": NAN}, ParameterError),
    ("top_p", {"p": -0.1}, ParameterError),
    ("top_p", {"p": 1.1}, ParameterError),
    ("top_p", {"p": NAN}, ParameterError),
    ("top_p", {"min_keep": -1}, (ParameterError, OverflowError)),  # type: ignore[list-item]
    ("min_p", {"p": 2.0}, ParameterError),
    ("typical", {"p": -INF}, ParameterError),
    ("temperature", {"temperature": -1.0}, ParameterError),
    ("temperature", {"temperature": INF}, ParameterError),
    ("temperature", {"temperature": NAN}, ParameterError),
    ("temperature", {"temperature": "hot"}, TypeError),
    ("penalties", {"repeat": 0.0}, ParameterError),
    ("penalties", {"repeat": NAN}, ParameterError),
    ("penalties", {"frequency": INF}, ParameterError),
    ("penalties", {"presence": NAN}, ParameterError),
    ("penalties", {"last_n": 2**31}, ParameterError),
    ("dry", {"multiplier": -1.0}, ParameterError),
    ("dry", {"base": 0.5}, ParameterError),
    ("dry", {"last_n": 2**31}, ParameterError),
    ("xtc", {"probability": 1.5}, ParameterError),
    ("xtc", {"threshold": NAN}, ParameterError),
    ("top_n_sigma", {"n": NAN}, ParameterError),
    ("mirostat", {"m": 0}, ParameterError),
    ("mirostat", {"tau": -1.0}, ParameterError),
    ("mirostat_v2", {"eta": INF}, ParameterError),
    ("logit_bias", {"bias": {5: NAN}}, ParameterError),
    ("logit_bias", {"bias": {5: INF}}, ParameterError),
    ("logit_bias", {"bias": {10**9: 1.0}}, InvalidTokenError),
    ("logit_bias", {"bias": {-1: 1.0}}, InvalidTokenError),
    ("logit_bias", {}, TypeError),
    ("dist", {"seed": 1.5}, TypeError),
    ("dist", {"sead": 1}, TypeError),
    ("greedy", {"temperature": 1.0}, TypeError),
    ("topk", {}, PluginError),
    ("", {}, PluginError),
]


# -- by name --------------------------------------------------------------------------------------


def test_every_built_in_sampler_is_tested() -> None:
    assert set(ACCEPTED) == set(llamacffi.samplers())
    assert all(sampler.description for sampler in llamacffi.samplers().values())


@pytest.mark.parametrize(
    ("name", "parameters"), [(name, given) for name, many in ACCEPTED.items() for given in many]
)
def test_accepted_parameters_sample(
    model: Model, decoded: Context, name: str, parameters: dict[str, Any]
) -> None:
    narrow = ["top_k"] if name == "infill" else []  # it compares every two candidates
    chain = SamplerChain(model, [*narrow, (name, parameters)])
    if name not in SELECTING:
        chain.add("dist", seed=1)
    prompt = model.vocab.tokenize(PROMPT)
    chain.check()
    chain.accept_prompt(prompt)
    for _ in range(3):
        assert 0 <= chain.sample(decoded) < len(model.vocab)
    copy = chain.clone()
    chain.reset()
    assert 0 <= copy.sample(decoded) < len(model.vocab)


@pytest.mark.parametrize(("name", "parameters", "error"), REFUSED)
def test_refused_parameters(
    model: Model, name: str, parameters: dict[str, Any], error: type[Exception]
) -> None:
    chain = SamplerChain(model)
    with pytest.raises(error):
        chain.add(name, **parameters)
    assert len(chain) == 0
    chain.add("greedy").check()


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": NAN}, {"top_p": 2.0}, {"min_p": -0.5}, {"typical_p": NAN}, {"top_k": 2**40},
        {"repeat_penalty": 0.0}, {"frequency_penalty": NAN}, {"mirostat_mode": 3},
        {"mirostat_mode": 2, "mirostat_tau": -1.0}, {"logit_bias": {0: NAN}}, {"tfs_z": 0.5},
        {"logprobs": -1}, {"stop": [""]}, {"temperature": INF},
    ],
)  # fmt: skip
def test_refused_by_a_completion(llama: Llama, parameters: dict[str, Any]) -> None:
    with pytest.raises(LlamaCffiError):
        text_of(llama, **parameters)
    assert text_of(llama, max_tokens=1, temperature=0)


# -- lifetimes ------------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Any) -> Iterator[Model]:
    with Model(write_model(tmp_path / "other.gguf"), backend="cpu") as loaded:
        yield loaded


def test_a_chain_of_another_model(decoded: Context, other: Model) -> None:
    with pytest.raises(ParameterError, match="belongs to"):
        SamplerChain(other, ["greedy"]).sample(decoded)


def test_a_chain_after_close(decoded: Context) -> None:
    chain = SamplerChain(decoded.model, ["greedy"])
    chain.close()
    chain.close()
    for use in (
        lambda: chain.sample(decoded),
        lambda: chain.add("greedy"),
        chain.reset,
        chain.clone,
        chain.check,
        lambda: chain.accept(5),
        lambda: chain.seed,
    ):
        with pytest.raises(ClosedError):
            use()


def test_a_chain_of_a_closed_model(other: Model) -> None:
    context = other.context(n_ctx=32, n_threads=1)
    context.decode_tokens([5])
    chain = SamplerChain(other, ["greedy"])
    node = llamacffi.samplers()["greedy"].create(other.vocab)
    assert isinstance(node, NativeNode)
    other.close()
    for use in (lambda: chain.sample(context), chain.reset, chain.clone):
        with pytest.raises(ClosedError):
            use()
    with pytest.raises(ClosedError):
        SamplerChain(other, ["greedy"])
    for name, given in ACCEPTED.items():
        with pytest.raises(ClosedError):
            llamacffi.samplers()[name].create(other.vocab, **given[0])


def test_a_closed_context(model: Model) -> None:
    context = model.context(n_ctx=32, n_threads=1)
    context.decode_tokens([5])
    context.close()
    with pytest.raises(ClosedError):
        SamplerChain(model, ["greedy"]).sample(context)


@pytest.mark.parametrize("index", [1, -2, 10**6, -(10**6)])
def test_an_output_that_is_not_there(model: Model, decoded: Context, index: int) -> None:
    chain = SamplerChain(model, ["greedy"])
    with pytest.raises((LlamaCffiError, IndexError)):
        chain.sample(decoded, index)
    assert chain.sample(decoded) >= 0, "the chain is of no use any more"


def test_sampling_before_any_decode(model: Model, context: Context) -> None:
    chain = SamplerChain(model, ["greedy"])
    with pytest.raises((LlamaCffiError, IndexError)):
        chain.sample(context)
    context.decode_tokens([5])
    assert chain.sample(context) >= 0


# -- seeds ----------------------------------------------------------------------------------------


def test_seeds_of_requests(llama: Llama) -> None:
    hot = {"temperature": 1.5, "top_k": 0, "max_tokens": 12}
    first = text_of(llama, seed=1, **hot)
    assert text_of(llama, seed=2, **hot) != first
    assert text_of(llama, seed=1, **hot) == first, "something of the request before was kept"


def test_the_constructor_seed_is_for_calls_without_one(llama: Llama) -> None:
    hot = {"temperature": 1.5, "top_k": 0, "max_tokens": 12}
    try:
        llama.set_seed(7)
        first = text_of(llama, **hot)
        assert text_of(llama, **hot) == first == text_of(llama, seed=7, **hot)
    finally:
        llama.set_seed(0xFFFFFFFF)
    assert text_of(llama, **hot) != text_of(llama, **hot), "without a seed each text is another"


# -- processors -----------------------------------------------------------------------------------


def only(token: int, returned: bool) -> Callable[[Any, Any], Any]:
    def processor(tokens: Any, logits: Any) -> Any:
        assert tokens.dtype == np.intc
        assert logits.dtype == np.float32
        if returned:
            return np.where(np.arange(logits.size) == token, logits, -INF)
        keep = logits[token]
        logits[:] = -INF
        logits[token] = keep
        return None

    return processor


@pytest.mark.parametrize("returned", [False, True])
def test_a_processor_in_place_or_by_its_result(llama: Llama, returned: bool) -> None:
    vocab = llama.model.vocab
    token = vocab.tokenize(" zebra")[0]
    text = text_of(llama, logits_processor=only(token, returned), max_tokens=3)
    assert text == vocab.detokenize([token] * 3)


def test_a_processor_gets_the_sequence_so_far(llama: Llama) -> None:
    seen: list[list[int]] = []
    text_of(llama, logits_processor=lambda ids, logits: seen.append(ids.tolist()), max_tokens=3)
    prompt = llama.tokenize(PROMPT)
    assert [len(ids) for ids in seen] == [len(prompt) + n for n in range(3)]
    assert all(ids[: len(prompt)] == prompt for ids in seen)


def test_a_bias_and_a_processor_both_work(llama: Llama) -> None:
    """llama-cpp-python drops both where both are given."""
    first, second = llama.model.vocab.tokenize(" cat")[0], llama.model.vocab.tokenize(" dog")[0]

    def two(tokens: Any, logits: Any) -> None:
        keep = logits[[first, second]].copy()
        logits[:] = -INF
        logits[[first, second]] = keep

    for banned, left in ((first, " dog"), (second, " cat")):
        found = text_of(llama, logits_processor=two, logit_bias={banned: -INF}, max_tokens=2)
        assert found == 2 * left


def test_several_processors_run_in_order(llama: Llama) -> None:
    called: list[str] = []
    many = [lambda ids, logits, name=name: called.append(name) for name in "abc"]
    text_of(llama, logits_processor=many, max_tokens=2)
    assert called == list("abcabc")


class MineError(Exception):
    pass


def test_the_exception_of_a_processor_arrives(llama: Llama) -> None:
    def careless(tokens: Any, logits: Any) -> None:
        raise MineError("on purpose")

    with pytest.raises(MineError, match="on purpose") as caught:
        text_of(llama, logits_processor=careless)
    if hasattr(caught.value, "__notes__"):  # Python 3.11
        assert any("careless" in note for note in caught.value.__notes__)
    assert text_of(llama, temperature=0, max_tokens=1)


def test_a_result_of_the_wrong_shape(llama: Llama) -> None:
    with pytest.raises(ValueError, match="shape"):
        text_of(llama, logits_processor=lambda ids, logits: logits[:5])


@pytest.mark.parametrize("value", [-INF, INF, NAN])
@pytest.mark.parametrize("parameters", [{"temperature": 0}, {"seed": 1}, {"mirostat_mode": 2}])
def test_hopeless_logits(llama: Llama, value: float, parameters: dict[str, Any]) -> None:
    """A typed error or some token, but no crash; and what comes next is sound."""
    wanted = text_of(llama, temperature=0, max_tokens=3)
    with suppress(LlamaCffiError):
        text_of(llama, logits_processor=lambda i, s: np.full_like(s, value), **parameters)
    assert text_of(llama, temperature=0, max_tokens=3) == wanted


def test_every_token_banned_by_bias(llama: Llama) -> None:
    everything = dict.fromkeys(range(len(llama.model.vocab)), -INF)
    wanted = text_of(llama, temperature=0, max_tokens=3)
    with suppress(LlamaCffiError):
        text_of(llama, logit_bias=everything)
    assert text_of(llama, temperature=0, max_tokens=3) == wanted


# -- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        (SamplingParams(temperature=0), "greedy()"),
        (SamplingParams(temperature=-1), "greedy()"),
        (
            SamplingParams(seed=4),
            "top_k(k=40) -> top_p(p=0.95) -> min_p(p=0.05) -> temperature(temperature=0.8) "
            "-> dist(seed=4)",
        ),
        (
            SamplingParams(top_k=0, top_p=1, min_p=0, seed=4),
            "temperature(temperature=0.8) -> dist(seed=4)",
        ),
        (
            SamplingParams(mirostat_mode=2, seed=4),
            "temperature(temperature=0.8) -> mirostat_v2(tau=5.0, eta=0.1, seed=4)",
        ),
    ],
)
def test_the_chain_of_parameters(model: Model, params: SamplingParams, wanted: str) -> None:
    chain = params.chain(model)
    chain.check()
    assert repr(chain) == f"SamplerChain({wanted})"


@pytest.mark.parametrize("mode", [1, 2])
def test_mirostat(llama: Llama, mode: int) -> None:
    assert text_of(llama, mirostat_mode=mode, seed=1) == text_of(llama, mirostat_mode=mode, seed=1)


STEPS = {"repeat_penalty": 1.2, "dry_multiplier": 0.8, "xtc_probability": 0.5, "seed": 1}
OUT_OF_RANGE: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("temperature", [NAN, INF], {}), ("dynatemp_range", [NAN, INF, -1.0], {}),
    ("dynatemp_exponent", [NAN, INF], {"dynatemp_range": 0.5}), ("top_k", [NAN, 2**31], {}),
    ("top_p", [NAN, -0.1, 1.1], {}), ("min_p", [NAN, -0.1, 1.1], {}),
    ("typical_p", [NAN, -0.1, 1.1], {}), ("top_n_sigma", [NAN, INF], {}),
    ("xtc_probability", [NAN, -0.1, 1.1], {}), ("xtc_threshold", [NAN, -0.1, 1.1], {}),
    ("min_keep", [NAN, -1], {}), ("repeat_penalty", [NAN, INF, 0.0, -1.0], {}),
    ("frequency_penalty", [NAN, INF], {}), ("presence_penalty", [NAN, -INF], {}),
    ("penalty_last_n", [NAN, 2**30], {}), ("dry_multiplier", [NAN, INF, -1.0], {}),
    ("dry_base", [NAN, 0.5], {}), ("dry_allowed_length", [NAN, -1], {}),
    ("dry_penalty_last_n", [NAN, 2**30], {}), ("dry_sequence_breakers", ["abc", [5]], {}),
    ("mirostat_mode", [NAN, -1, 3], {}),
    ("mirostat_tau", [NAN, INF, -1.0], {"mirostat_mode": 2}),
    ("mirostat_eta", [NAN, INF, -1.0], {"mirostat_mode": 1}),
    ("adaptive_target", [NAN, 1.1], {}),
    ("adaptive_decay", [NAN, 1.0, -0.1], {"adaptive_target": 0.5}),
    ("samplers", ["top_k", ["topk"], ["greedy"], [""]], {}),
    ("logit_bias", [{5: NAN}, {5: INF}], {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "others"),
    [(name, value, others) for name, values, others in OUT_OF_RANGE for value in values],
)
def test_a_parameter_out_of_range_is_named(
    model: Model, name: str, value: Any, others: dict[str, Any]
) -> None:
    with pytest.raises(ParameterError) as caught:
        SamplingParams(**{**STEPS, **others, name: value}).chain(model)
    assert name in str(caught.value)


EFFECTS: dict[str, Any] = {
    "temperature": 0.5, "dynatemp_range": 0.2, "dynatemp_exponent": 2.0, "top_k": 7, "top_p": 0.5,
    "min_p": 0.2, "typical_p": 0.5, "top_n_sigma": 1.5, "xtc_probability": 0.4,
    "xtc_threshold": 0.2, "min_keep": 3, "repeat_penalty": 1.3, "frequency_penalty": 0.5,
    "presence_penalty": 0.5, "penalty_last_n": 9, "dry_multiplier": 0.5, "dry_base": 2.0,
    "dry_allowed_length": 5, "dry_penalty_last_n": 99, "dry_sequence_breakers": ("x",),
    "mirostat_mode": 1, "mirostat_tau": 4.0, "mirostat_eta": 0.2, "adaptive_target": 0.3,
    "adaptive_decay": 0.5, "samplers": ("top_k",), "logit_bias": {5: False},
    "grammar": 'root ::= "a"', "json_schema": {"type": "null"},
    "processors": (lambda tokens, logits: None,), "seed": 8,
}  # fmt: skip
NEEDING_AN_ENGINE = {"regex", "lark", "structured_engine"}


def test_every_parameter_has_an_effect(model: Model) -> None:
    needing = {name: others for name, _, others in OUT_OF_RANGE if others}
    assert set(EFFECTS) | NEEDING_AN_ENGINE == {each.name for each in fields(SamplingParams)}
    for name, value in EFFECTS.items():
        without = {**STEPS, **needing.get(name, {})}
        printed = {
            repr(SamplingParams(**given).chain(model))
            for given in (without, {**without, name: value})
        }
        assert len(printed) == 2, f"{name} does nothing"


def test_the_order_of_samplers(model: Model) -> None:
    params = SamplingParams(
        samplers=("temp", "top_k", "infill", "typ_p"), typical_p=0.5, top_p=0.1, seed=2
    )
    assert repr(params.chain(model)) == (
        "SamplerChain(temperature(temperature=0.8) -> top_k(k=40) -> infill() -> typical(p=0.5) "
        "-> dist(seed=2))"
    )
    assert repr(SamplingParams(samplers=(), seed=2).chain(model)) == "SamplerChain(dist(seed=2))"
    greedy = SamplingParams(samplers=("top_k", "penalties"), presence_penalty=1, temperature=0)
    assert repr(greedy.chain(model)).endswith("presence=1) -> greedy())")
