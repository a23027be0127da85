"""Logits processors beside a chain: their states, what they return, and their errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from llamacffi import Context, Model, Sampler, SamplerChain, SamplingParams, plugins
from llamacffi.errors import (
    PluginError,
)
from llamacffi.hookspecs import hookimpl
from llamacffi.sampling import registry
from llamacffi.sampling.history import TokenHistory
from tests.chains import picks

INF = math.inf


# -- states ---------------------------------------------------------------------------------------


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
    tiny_gpt2: Model, output: Context, copy: Callable[[SamplerChain], SamplerChain]
) -> None:
    chain = SamplerChain(tiny_gpt2, [Counter(), "greedy"])
    assert picks(chain, output, 3) == [0, 1, 2]
    other = copy(chain)
    assert picks(other, output, 2) == [3, 4]
    assert picks(chain, output, 1) == [3]
    assert picks(other, output, 1) == [5]


def test_a_processor_is_told_the_prompt(tiny_gpt2: Model, output: Context) -> None:
    counter = Counter()
    chain = SamplerChain(tiny_gpt2, [counter, "greedy"])
    picks(chain, output, 3)
    chain.accept_prompt([4, 5])
    chain.accept_prompt([])
    assert counter.prompts == [[4, 5], []]
    assert picks(chain, output, 2) == [0, 1]


def test_a_processor_without_a_state_is_shared(tiny_gpt2: Model, output: Context) -> None:
    called: list[int] = []
    chain = SamplerChain(tiny_gpt2, [lambda tokens, logits: called.append(1), "greedy"])
    chain.accept_prompt([1])
    picks(chain, output, 1)
    picks(chain.clone(), output, 2)
    assert len(called) == 3


def test_begin_that_raises(tiny_gpt2: Model) -> None:
    class Careless(Counter):
        def begin(self, prompt: Any) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        SamplerChain(tiny_gpt2, [Careless(), "greedy"]).accept_prompt([1])
    assert "Careless" in "".join(getattr(caught.value, "__notes__", ["Careless"]))


# -- results and errors ---------------------------------------------------------------------------


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
    tiny_gpt2: Model, output: Context, change: Callable[[Any], Any]
) -> None:
    output.logits()[:7] = 0
    chain = SamplerChain(tiny_gpt2, [lambda tokens, logits: change(logits), "greedy"])
    assert chain.sample(output) == len(tiny_gpt2.vocab) - 1


@pytest.mark.parametrize(
    "result",
    [0.0, True, [1.0], np.zeros(5), np.zeros((271, 1)), np.zeros((2, 271)), np.zeros(272), "abc",
     object(), np.zeros(271, complex), {}],
    ids=["number", "bool", "one", "five", "column", "two rows", "one more", "text", "object",
         "complex", "dict"],
)  # fmt: skip
def test_what_a_processor_may_not_return(tiny_gpt2: Model, output: Context, result: Any) -> None:
    def careless(tokens: Any, logits: Any) -> Any:
        return result

    before = output.logits().copy()
    chain = SamplerChain(tiny_gpt2, [careless, "greedy"])
    with pytest.raises((ValueError, TypeError)) as caught:
        chain.sample(output)
    assert "careless" in "".join(getattr(caught.value, "__notes__", ["careless"]))
    assert np.array_equal(output.logits(), before)


def test_processors_compose_with_bias_and_grammar(tiny_gpt2: Model, output: Context) -> None:
    a, b, c, d = (tiny_gpt2.vocab.tokenize(letter, add_special=False)[0] for letter in "abcd")

    def lift(tokens: Any, logits: Any) -> Any:
        logits[[a, b, c, d, 7]] = [5, 4, 3, 2, 99]

    def ban(tokens: Any, logits: Any) -> Any:
        assert logits[a] == 5
        return np.where(np.arange(logits.size) == a, -INF, logits)

    params = SamplingParams(
        grammar="root ::= [a-d]*", processors=(lift, ban), logit_bias={b: False, c: -2}, seed=1,
        top_k=1,
    )  # fmt: skip
    assert params.chain(tiny_gpt2).sample(output) == d
    assert SamplerChain(tiny_gpt2, [lift, ban, "greedy"]).sample(output) == 7


def test_a_list_of_processors_of_llama_cpp_python(tiny_gpt2: Model, output: Context) -> None:
    class LogitsProcessorList(list[Callable[[Any, Any], Any]]):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            for processor in self:
                scores = processor(input_ids, scores)
            return scores

    many = LogitsProcessorList([lambda ids, scores: -scores, lambda ids, scores: scores * 2])
    output.logits()[:7] = 0
    last = len(tiny_gpt2.vocab) - 1
    assert SamplerChain(tiny_gpt2, [many, "greedy"]).sample(output) == last
    output.logits()[:] = -output.logits()
    chain = SamplingParams(processors=many, temperature=0).chain(tiny_gpt2)
    assert chain.sample(output) == last


def test_what_a_processor_keeps(tiny_gpt2: Model) -> None:
    """The tokens stay as they were; the logits stay readable after the context was closed."""
    kept: list[Any] = []
    chain = SamplerChain(tiny_gpt2, [lambda *given: kept.append(given), "greedy"])
    history = TokenHistory([1, 2])
    with tiny_gpt2.context(n_ctx=32, n_threads=1) as context:
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
def test_the_plugin_is_named(tiny_gpt2: Model, output: Context) -> None:
    wanted = "the sampler 'raising' of the plugin 'stranger'"
    with pytest.raises(LookupError, match="on purpose") as running:
        SamplerChain(tiny_gpt2, ["raising", "greedy"]).sample(output)
    with pytest.raises(LookupError, match="at once") as adding:
        SamplerChain(tiny_gpt2).add("raising", at_once=True)
    for caught in (running, adding):
        assert wanted in "".join(getattr(caught.value, "__notes__", [wanted]))
    with pytest.raises(PluginError, match="nothing"):
        SamplerChain(tiny_gpt2).add("nothing")
