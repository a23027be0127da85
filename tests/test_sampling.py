"""Samplers: every one by name, the chain, seeds, processors, grammars, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamacffi
from llamacffi import Context, Llama, Model, NativeNode, SamplerChain, SamplingParams
from llamacffi.errors import (
    ClosedError,
    GrammarError,
    InvalidTokenError,
    LlamaCffiError,
    ParameterError,
    PluginError,
)
from tests.tiny_models import write_model

INF, NAN = math.inf, math.nan
PROMPT = "Once upon a time there was a"

SELECTING = ("greedy", "dist", "mirostat", "mirostat_v2")
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
BAD_GRAMMARS = [
    "", "   ", "root", "root ::= (", 'root ::= "a', "root ::= foo", "foo ::= [a]",
    "root ::= [z-", "root ::= root", 'root ::= root "a" | "b"', 'root ::= "\0"',
    "{}", "root ::= \x80\xff", 'root ::= "\\x"', "root ::= *", "a" * 10_000,
]  # fmt: skip


@pytest.fixture
def decoded(context: Context) -> Context:
    context.decode_tokens(context.model.vocab.tokenize(PROMPT))
    return context


def text_of(llama: Llama, **parameters: Any) -> str:
    parameters = {"max_tokens": 6, **parameters}
    result = llama.create_completion(PROMPT, **parameters)
    assert isinstance(result, dict)
    return str(result["choices"][0]["text"])


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
    chain = SamplerChain(model, [(name, parameters)])
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


# -- the chain ------------------------------------------------------------------------------------


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


# -- grammars -------------------------------------------------------------------------------------


@pytest.mark.parametrize("grammar", BAD_GRAMMARS)
def test_malformed_grammars(llama: Llama, grammar: str) -> None:
    with pytest.raises(GrammarError):
        SamplerChain(llama.model).add("grammar", grammar=grammar)
    with pytest.raises(GrammarError):
        text_of(llama, grammar=grammar)


IN_CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
import llamacffi
model = llamacffi.Model(sys.argv[1], backend="cpu", vocab_only=True)
try:
    llamacffi.SamplerChain(model).add("grammar", grammar=sys.stdin.read())
except llamacffi.errors.GrammarError:
    print("refused")
else:
    print("accepted")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits and measures memory as Linux does")
@pytest.mark.parametrize(
    ("grammar", "answer"),
    [
        ('root ::= "a"{5,2}', "refused"),
        ('root ::= "a"{1,99999999999999999999}', "refused"),
        ('root ::= "a"{2000000000}', "refused"),
        ('root ::= "a"{0,2000000000} "b"', "accepted"),
        ("root ::= " + "(" * 20_000, "refused"),
        ("root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000, "refused"),
    ],
    ids=["reversed", "overflow", "many", "unbounded", "open", "deep"],
)
def test_grammars_that_would_eat_the_memory(model_path: Path, grammar: str, answer: str) -> None:
    """In a child, whose memory is limited: a bug here is the death of the whole process."""
    child = subprocess.run(
        [sys.executable, "-c", IN_CHILD, str(model_path)],
        input=grammar,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode == 0, f"died with {child.returncode}: {child.stderr[-300:]}"
    outcome, megabytes = child.stdout.split()
    assert outcome == answer
    assert int(megabytes) < 900  # the library and the mapped model are most of it


def test_a_grammar_without_its_root(model: Model) -> None:
    with pytest.raises(GrammarError, match="start"):
        SamplerChain(model).add("grammar", grammar='root ::= "a"', root="start")


@pytest.mark.parametrize(
    ("grammar", "allowed"),
    [
        ('root ::= "yes" | "no"', {"yes", "no"}),
        ('root ::= " " [0-9] [0-9] "%"', {f" {n:02}%" for n in range(100)}),
        ('root ::= "🦙é"', {"🦙é"}),
    ],
)
@pytest.mark.parametrize("parameters", [{"temperature": 0}, {"temperature": 2.0, "seed": 3}])
def test_a_grammar_restricts_the_text(
    llama: Llama, grammar: str, allowed: set[str], parameters: dict[str, Any]
) -> None:
    assert text_of(llama, grammar=grammar, max_tokens=20, **parameters) in allowed


def test_a_grammar_starts_anew_with_each_call(llama: Llama) -> None:
    grammar = 'root ::= "a" "b"'
    assert [text_of(llama, grammar=grammar, max_tokens=9) for _ in range(3)] == ["ab"] * 3


def test_a_grammar_with_bias_and_processor(llama: Llama) -> None:
    vocab = llama.model.vocab
    first = {vocab.tokenize("yes")[0], vocab.tokenize("y")[0], vocab.tokenize("ye")[0]}
    text = text_of(
        llama,
        grammar='root ::= "yes" | "no"',
        logit_bias=dict.fromkeys(first, -INF),
        logits_processor=lambda ids, logits: None,
        max_tokens=5,
    )
    assert text == "no"


def test_accepting_against_the_grammar_is_an_error(model: Model, decoded: Context) -> None:
    chain = SamplerChain(model, [("grammar", {"grammar": 'root ::= "a"'}), "greedy"])
    with pytest.raises(LlamaCffiError):
        chain.accept(model.vocab.tokenize(" zebra")[0])
    assert SamplerChain(model, ["greedy"]).sample(decoded) >= 0


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
