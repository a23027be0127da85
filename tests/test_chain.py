"""The chain: its order, copies and seeds, and logits processors beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import llamacffi
from llamacffi import Context, Model, NativeNode, Sampler, SamplerChain, SamplingParams, plugins
from llamacffi.errors import (
    InvalidTokenError,
    LlamaCffiError,
    ParameterError,
    PluginError,
    SamplingError,
)
from llamacffi.hookspecs import hookimpl
from llamacffi.sampling import registry
from llamacffi.sampling.history import TokenHistory
from tests.tiny_models import write_model

INF, NAN = math.inf, math.nan
PROMPT = "Once upon a time there was a"


@pytest.fixture
def decoded(context: Context) -> Context:
    context.decode_tokens(context.model.vocab.tokenize(PROMPT))
    return context


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "m.gguf", "gpt2")


@pytest.fixture(scope="module")
def tiny(tiny_path: Path) -> Iterator[Model]:
    with Model(tiny_path, backend="cpu") as loaded:
        yield loaded


@pytest.fixture
def output(tiny: Model) -> Iterator[Context]:
    """A context whose logits the tests overwrite: token 7 is best, then 8, and so on."""
    with tiny.context(n_ctx=32, n_threads=1) as made:
        made.decode_tokens([5])
        logits = made.logits()
        logits[:] = -np.arange(logits.size) / 10
        logits[:7] = -50
        yield made


def picks(chain: SamplerChain, output: Context, count: int = 12) -> list[int]:
    return [chain.sample(output) for _ in range(count)]


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


# -- copies and seeds -----------------------------------------------------------------------------

SEEDED: list[list[Any]] = [
    ["dist"],
    [("top_k", {"k": 50}), ("temperature", {"temperature": 2.0}), "dist"],
    [("xtc", {"probability": 0.5, "threshold": 0.0}), "dist"],
    ["mirostat"],
    ["mirostat_v2"],
    [("temperature", {"temperature": 3.0}), "adaptive_p"],
    [("grammar", {"grammar": "root ::= [a-z]*"}), "dist"],
]


@pytest.mark.parametrize("samplers", SEEDED, ids=str)
def test_a_seed_decides(tiny: Model, output: Context, samplers: list[Any]) -> None:
    chain = SamplerChain(tiny, samplers)
    first = picks(chain.with_seed(1), output)
    assert picks(chain.with_seed(1), output) == first
    assert picks(chain.with_seed(2), output) != first
    assert picks(chain.with_seed(None), output) != picks(chain.with_seed(None), output)
    assert picks(chain.with_seed(1).with_seed(2).with_seed(1), output) == first
    assert chain.with_seed(9).seed == 9
    assert picks(chain.with_seed(1), output) == first, "the chain itself was changed"


def test_a_seed_reaches_every_sampler_that_draws(tiny: Model) -> None:
    chain = SamplerChain(tiny, [("xtc", {"seed": 4}), ("top_k", {"k": 9}), ("dist", {"seed": 5})])
    assert repr(chain.with_seed(6)) == "SamplerChain(xtc(seed=6) -> top_k(k=9) -> dist(seed=6))"
    assert repr(chain) == "SamplerChain(xtc(seed=4) -> top_k(k=9) -> dist(seed=5))"


@pytest.mark.parametrize("samplers", SEEDED, ids=str)
def test_a_drawn_seed_can_be_used_again(tiny: Model, output: Context, samplers: list[Any]) -> None:
    chain = SamplerChain(tiny, samplers)
    first = picks(chain, output)
    assert chain.seed != 0xFFFFFFFF
    assert picks(chain.with_seed(chain.seed), output) == first


def test_a_new_seed_keeps_what_draws_nothing(tiny: Model, output: Context) -> None:
    """Penalties go on with what they have seen; a node given as such is copied with its state."""
    chain = SamplerChain(tiny, [("penalties", {"presence": 100.0, "last_n": -1}), "greedy"])
    assert picks(chain, output, 3) == [7, 8, 9]
    assert picks(chain.with_seed(1), output, 2) == [10, 11]
    node = llamacffi.samplers()["dist"].create(tiny.vocab, seed=3)
    assert isinstance(node, NativeNode)
    native = SamplerChain(tiny, [node])
    copies = [native.with_seed(1), native.with_seed(2), native.clone()]
    wanted = picks(native, output)
    assert [picks(copy, output) for copy in copies] == [wanted] * 3


def test_a_node_belongs_to_one_chain(tiny: Model, output: Context) -> None:
    node = llamacffi.samplers()["greedy"].create(tiny.vocab)
    chain = SamplerChain(tiny, [node])
    with pytest.raises(LlamaCffiError):
        SamplerChain(tiny, [node])
    assert chain.sample(output) == 7
    with pytest.raises(TypeError, match="parameters"):
        SamplerChain(tiny).add(llamacffi.samplers()["greedy"].create(tiny.vocab), k=1)


@pytest.mark.parametrize(
    ("name", "parameters"), [("grammar", {"grammar": "root ::= [a-z]+"}), ("infill", {})]
)
def test_a_node_of_another_model(
    tiny: Model, tiny_path: Path, name: str, parameters: dict[str, Any]
) -> None:
    """It would refer to the other model's vocabulary, after that model was closed too."""
    with Model(tiny_path, backend="cpu") as other:
        node = llamacffi.samplers()[name].create(other.vocab, **parameters)
        chain = SamplerChain(tiny)
        with pytest.raises(ParameterError):
            chain.add(node)
        assert len(chain) == 0


class Counter:
    """A processor with a state: it bans as many of the best tokens as it was called."""

    def __init__(self, calls: int = 0) -> None:
        self.calls = calls
        self.prompts: list[list[int]] = []

    def __call__(self, tokens: Any, logits: Any) -> None:
        logits[:] = -np.arange(logits.size)
        logits[: self.calls] = -INF
        self.calls += 1

    def begin(self, prompt: Any) -> None:
        self.prompts.append(list(prompt))
        self.calls = 0

    def clone(self) -> Counter:
        return Counter(self.calls)


@pytest.mark.parametrize(
    "copy", [SamplerChain.clone, lambda chain: chain.with_seed(1)], ids=["clone", "with_seed"]
)
def test_a_processor_with_a_state_is_copied(
    tiny: Model, output: Context, copy: Callable[[SamplerChain], SamplerChain]
) -> None:
    chain = SamplerChain(tiny, [Counter(), "greedy"])
    assert picks(chain, output, 3) == [0, 1, 2]
    other = copy(chain)
    assert picks(other, output, 2) == [3, 4]
    assert picks(chain, output, 1) == [3]
    assert picks(other, output, 1) == [5]


def test_a_processor_is_told_the_prompt(tiny: Model, output: Context) -> None:
    counter = Counter()
    chain = SamplerChain(tiny, [counter, "greedy"])
    picks(chain, output, 3)
    chain.accept_prompt([4, 5])
    chain.accept_prompt([])
    assert counter.prompts == [[4, 5], []]
    assert picks(chain, output, 2) == [0, 1]


def test_a_processor_without_a_state_is_shared(tiny: Model, output: Context) -> None:
    called: list[int] = []
    chain = SamplerChain(tiny, [lambda tokens, logits: called.append(1), "greedy"])
    chain.accept_prompt([1])
    picks(chain, output, 1)
    picks(chain.clone(), output, 2)
    assert len(called) == 3


def test_begin_that_raises(tiny: Model) -> None:
    class Careless(Counter):
        def begin(self, prompt: Any) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        SamplerChain(tiny, [Careless(), "greedy"]).accept_prompt([1])
    assert "Careless" in "".join(getattr(caught.value, "__notes__", ["Careless"]))


# -- processors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: -logits,
        lambda logits: -logits.astype(np.float64),
        lambda logits: (-10 * logits).astype(np.int32),
        lambda logits: list(-logits),
        lambda logits: np.negative(logits, out=logits),
        lambda logits: np.negative(logits, out=logits)[:],
    ],
    ids=["float32", "float64", "int32", "list", "in place", "a view"],
)
def test_what_a_processor_may_return(
    tiny: Model, output: Context, change: Callable[[Any], Any]
) -> None:
    output.logits()[:7] = 0
    chain = SamplerChain(tiny, [lambda tokens, logits: change(logits), "greedy"])
    assert chain.sample(output) == len(tiny.vocab) - 1


@pytest.mark.parametrize(
    "result",
    [0.0, True, [1.0], np.zeros(5), np.zeros((271, 1)), np.zeros((2, 271)), np.zeros(272), "abc",
     object(), np.zeros(271, complex), {}],
    ids=["number", "bool", "one", "five", "column", "two rows", "one more", "text", "object",
         "complex", "dict"],
)  # fmt: skip
def test_what_a_processor_may_not_return(tiny: Model, output: Context, result: Any) -> None:
    def careless(tokens: Any, logits: Any) -> Any:
        return result

    before = output.logits().copy()
    chain = SamplerChain(tiny, [careless, "greedy"])
    with pytest.raises((ValueError, TypeError)) as caught:
        chain.sample(output)
    assert "careless" in "".join(getattr(caught.value, "__notes__", ["careless"]))
    assert np.array_equal(output.logits(), before)


def test_processors_compose_with_bias_and_grammar(tiny: Model, output: Context) -> None:
    a, b, c, d = (tiny.vocab.tokenize(letter, add_special=False)[0] for letter in "abcd")

    def lift(tokens: Any, logits: Any) -> Any:
        logits[[a, b, c, d, 7]] = [5, 4, 3, 2, 99]

    def ban(tokens: Any, logits: Any) -> Any:
        assert logits[a] == 5
        return np.where(np.arange(logits.size) == a, -INF, logits)

    params = SamplingParams(
        grammar="root ::= [a-d]*", processors=(lift, ban), logit_bias={b: False, c: -2}, seed=1,
        top_k=1,
    )  # fmt: skip
    assert params.chain(tiny).sample(output) == d
    assert SamplerChain(tiny, [lift, ban, "greedy"]).sample(output) == 7


def test_a_list_of_processors_of_llama_cpp_python(tiny: Model, output: Context) -> None:
    class LogitsProcessorList(list[Callable[[Any, Any], Any]]):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            for processor in self:
                scores = processor(input_ids, scores)
            return scores

    many = LogitsProcessorList([lambda ids, scores: -scores, lambda ids, scores: scores * 2])
    output.logits()[:7] = 0
    last = len(tiny.vocab) - 1
    assert SamplerChain(tiny, [many, "greedy"]).sample(output) == last
    output.logits()[:] = -output.logits()
    chain = SamplingParams(processors=many, temperature=0).chain(tiny)
    assert chain.sample(output) == last


def test_what_a_processor_keeps(tiny: Model) -> None:
    """The tokens stay as they were; the logits stay readable after the context was closed."""
    kept: list[Any] = []
    chain = SamplerChain(tiny, [lambda *given: kept.append(given), "greedy"])
    history = TokenHistory([1, 2])
    with tiny.context(n_ctx=32, n_threads=1) as context:
        context.decode_tokens([5])
        for token in range(300):
            chain.sample(context, tokens=history)
            history.tokens.append(token)
        wanted = float(kept[0][1].sum())
    assert kept[0][0].tolist() == [1, 2]
    assert kept[-1][0].tolist() == [1, 2, *range(299)]
    assert float(kept[0][1].sum()) == wanted
    with pytest.raises(ValueError, match="read-only"):
        kept[0][0][0] = 5
    kept.clear()


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A plugin called "stranger" with a processor and a sampler that raise."""

    def raising(vocab: Any, at_once: bool = False) -> Any:
        def processor(tokens: Any, logits: Any) -> None:
            raise LookupError("on purpose")

        if at_once:
            raise LookupError("at once")
        return processor

    @hookimpl
    def register_samplers(register: Callable[[Sampler], None]) -> None:
        register(Sampler("raising", raising))
        register(Sampler("nothing", lambda vocab: None))

    module = ModuleType("stranger")
    module.register_samplers = register_samplers  # type: ignore[attr-defined]
    manager = plugins._plugins().manager
    manager.register(module, "stranger")
    registry.samplers.cache_clear()
    yield
    manager.unregister(module)
    registry.samplers.cache_clear()


@pytest.mark.usefixtures("plugin")
def test_the_plugin_is_named(tiny: Model, output: Context) -> None:
    wanted = "the sampler 'raising' of the plugin 'stranger'"
    with pytest.raises(LookupError, match="on purpose") as running:
        SamplerChain(tiny, ["raising", "greedy"]).sample(output)
    with pytest.raises(LookupError, match="at once") as adding:
        SamplerChain(tiny).add("raising", at_once=True)
    for caught in (running, adding):
        assert wanted in "".join(getattr(caught.value, "__notes__", [wanted]))
    with pytest.raises(PluginError, match="nothing"):
        SamplerChain(tiny).add("nothing")


# -- nothing to pick ------------------------------------------------------------------------------

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
def test_every_token_is_banned(tiny: Model, output: Context, ending: list[Any], how: str) -> None:
    def ban(tokens: Any, logits: Any) -> None:
        logits[:] = -INF

    kept = output.logits().copy()
    chain = SamplerChain(tiny)
    if how == "processor":
        chain.add(ban)
    elif how == "bias":
        chain.add("logit_bias", bias=dict.fromkeys(range(len(tiny.vocab)), -INF))
    else:
        output.logits()[:] = -INF
    for sampler in ending:
        name, given = sampler if isinstance(sampler, tuple) else (sampler, {})
        chain.add(name, **given)
    for _ in range(2):
        with pytest.raises(SamplingError, match="-inf"):
            chain.sample(output)
    output.logits()[:] = kept
    assert SamplerChain(tiny, ["greedy"]).sample(output) == 7
    if how == "logits":
        assert 7 <= chain.sample(output) < len(tiny.vocab)


@pytest.mark.parametrize("ending", ENDINGS, ids=str)
def test_one_token_is_left(tiny: Model, output: Context, ending: list[Any]) -> None:
    output.logits()[np.arange(len(tiny.vocab)) != 42] = -INF
    assert picks(SamplerChain(tiny, ending), output, 3) == [42] * 3


@pytest.mark.parametrize("temperature", [1e-30, 1e-39, 1e-44, 1e-60])
def test_a_temperature_near_zero_is_greedy(
    tiny: Model, output: Context, temperature: float
) -> None:
    for shift in (-100, 100):
        output.logits()[:] += shift
        chain = SamplingParams(temperature=temperature, seed=1).chain(tiny)
        assert picks(chain, output, 3) == [7] * 3


@pytest.mark.parametrize("ending", ENDINGS, ids=str)
@pytest.mark.parametrize("value", [NAN, INF])
def test_senseless_logits_end_nothing(
    tiny: Model, output: Context, ending: list[Any], value: float
) -> None:
    for place in (slice(None), slice(3, 200, 3), slice(0, 1)):
        output.logits()[place] = value
        for more in ([], [("grammar", {"grammar": "root ::= [a-z]*"})]):
            try:
                assert 0 <= SamplerChain(tiny, [*more, *ending]).sample(output) < len(tiny.vocab)
            except LlamaCffiError as error:
                assert str(error)  # noqa: PT017
    output.logits()[:] = 0
    output.logits()[9] = 1
    assert SamplerChain(tiny, ["greedy"]).sample(output) == 9
