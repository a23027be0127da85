"""Seeds decide what chains draw, and copies of chains keep their state."""

from __future__ import annotations

from typing import Any

import pytest

import llamacffi
from llamacffi import Context, Model, NativeNode, SamplerChain
from llamacffi.errors import (
    LlamaCffiError,
    ParameterError,
)
from tests.chains import picks

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
def test_a_seed_decides(tiny_gpt2: Model, output: Context, samplers: list[Any]) -> None:
    chain = SamplerChain(tiny_gpt2, samplers)
    first = picks(chain.with_seed(1), output)
    assert picks(chain.with_seed(1), output) == first
    assert picks(chain.with_seed(2), output) != first
    assert picks(chain.with_seed(None), output) != picks(chain.with_seed(None), output)
    assert picks(chain.with_seed(1).with_seed(2).with_seed(1), output) == first
    assert chain.with_seed(9).seed == 9
    assert picks(chain.with_seed(1), output) == first, "the chain itself was changed"


def test_a_seed_reaches_every_sampler_that_draws(tiny_gpt2: Model) -> None:
    chain = SamplerChain(
        tiny_gpt2, [("xtc", {"seed": 4}), ("top_k", {"k": 9}), ("dist", {"seed": 5})]
    )
    assert repr(chain.with_seed(6)) == "SamplerChain(xtc(seed=6) -> top_k(k=9) -> dist(seed=6))"
    assert repr(chain) == "SamplerChain(xtc(seed=4) -> top_k(k=9) -> dist(seed=5))"


@pytest.mark.parametrize("samplers", SEEDED, ids=str)
def test_a_drawn_seed_can_be_used_again(
    tiny_gpt2: Model, output: Context, samplers: list[Any]
) -> None:
    chain = SamplerChain(tiny_gpt2, samplers)
    first = picks(chain, output)
    assert chain.seed != 0xFFFFFFFF
    assert picks(chain.with_seed(chain.seed), output) == first


def test_a_new_seed_keeps_what_draws_nothing(tiny_gpt2: Model, output: Context) -> None:
    """Penalties go on with what they have seen; a node given as such is copied with its state."""
    chain = SamplerChain(tiny_gpt2, [("penalties", {"presence": 100.0, "last_n": -1}), "greedy"])
    assert picks(chain, output, 3) == [7, 8, 9]
    assert picks(chain.with_seed(1), output, 2) == [10, 11]
    node = llamacffi.samplers()["dist"].create(tiny_gpt2.vocab, seed=3)
    assert isinstance(node, NativeNode)
    native = SamplerChain(tiny_gpt2, [node])
    copies = [native.with_seed(1), native.with_seed(2), native.clone()]
    wanted = picks(native, output)
    assert [picks(copy, output) for copy in copies] == [wanted] * 3


def test_a_node_belongs_to_one_chain(tiny_gpt2: Model, output: Context) -> None:
    node = llamacffi.samplers()["greedy"].create(tiny_gpt2.vocab)
    chain = SamplerChain(tiny_gpt2, [node])
    with pytest.raises(LlamaCffiError):
        SamplerChain(tiny_gpt2, [node])
    assert chain.sample(output) == 7
    with pytest.raises(TypeError, match="parameters"):
        SamplerChain(tiny_gpt2).add(llamacffi.samplers()["greedy"].create(tiny_gpt2.vocab), k=1)


@pytest.mark.parametrize(
    ("name", "parameters"), [("grammar", {"grammar": "root ::= [a-z]+"}), ("infill", {})]
)
def test_a_node_of_another_model(tiny_gpt2: Model, name: str, parameters: dict[str, Any]) -> None:
    """It would refer to the other model's vocabulary, after that model was closed too."""
    with Model(tiny_gpt2.path, backend="cpu") as other:
        node = llamacffi.samplers()[name].create(other.vocab, **parameters)
        chain = SamplerChain(tiny_gpt2)
        with pytest.raises(ParameterError):
            chain.add(node)
        assert len(chain) == 0
