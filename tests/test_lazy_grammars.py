"""Lazy grammars wait for their triggers: words, patterns and tokens."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from llamacffi import Context, Grammar, Model, SamplerChain, SamplingParams
from llamacffi.errors import LlamaCffiError, ParameterError
from tests.grammars import token_of

LAZY: list[dict[str, Any]] = [
    {"trigger_words": ["<t>"]},
    {"trigger_patterns": ["<t>"]},
    {"trigger_patterns": ["x*(<t>)"]},
    {"trigger_patterns": ["no", "<[a-z]>"]},
]


def walk(chain: SamplerChain, output: Context, model: Model, wishes: str) -> str:
    """The text that comes out where single characters are wished for."""
    text = ""
    for wish in wishes:
        output.logits()[:] = 0
        output.logits()[token_of(model, wish)] = 9
        text += model.vocab.detokenize([chain.sample(output)])
    return text


@pytest.mark.parametrize("triggers", LAZY)
def test_a_lazy_grammar_waits_for_its_trigger(
    tiny_gpt2: Model, output: Context, triggers: dict[str, Any]
) -> None:
    grammar = {"grammar": 'root ::= "<t>" [0-3] "!"', **triggers}
    chain = SamplerChain(tiny_gpt2, [("grammar", grammar), "greedy"])
    assert walk(chain, output, tiny_gpt2, "abx<t") == "abx<t"
    for copy in (chain.clone(), chain.with_seed(1)):
        assert walk(copy, output, tiny_gpt2, ">3?") == ">3!"
    assert walk(chain, output, tiny_gpt2, ">2?") == ">2!"
    chain.reset()
    assert walk(chain, output, tiny_gpt2, "ab9?<t>1x") == "ab9?<t>1!"


def test_a_trigger_token(tiny_gpt2: Model, output: Context) -> None:
    star = token_of(tiny_gpt2, "*")
    grammar = {"grammar": 'root ::= "*" "a"', "trigger_tokens": [star]}
    chain = SamplerChain(tiny_gpt2, [("grammar", grammar), "greedy"])
    assert walk(chain, output, tiny_gpt2, "bb*b") == "bb*a"


def test_triggers_of_a_grammar_object_and_of_the_call(tiny_gpt2: Model, output: Context) -> None:
    rules = Grammar('root ::= [<[] "a"', trigger_words=("<",))
    chain = SamplerChain(
        tiny_gpt2, [("grammar", {"grammar": rules, "trigger_words": ["["]}), "greedy"]
    )
    for mark in "<[":
        assert walk(chain, output, tiny_gpt2, f"bb{mark}b") == f"bb{mark}a"
        chain.reset()
    params = SamplingParams(grammar=rules, temperature=0)
    assert walk(params.chain(tiny_gpt2), output, tiny_gpt2, "bb<b") == "bb<a"


@pytest.mark.parametrize("word", ["a.c", "(x", "[]", "a|b", "$1^", "\\d", "{2}", "é*", "+?"])
def test_a_trigger_word_is_plain_text(tiny_gpt2: Model, output: Context, word: str) -> None:
    grammar = {"grammar": "root ::= " + '"!"', "trigger_words": [word]}
    chain = SamplerChain(tiny_gpt2, [("grammar", grammar), "greedy"])
    for byte in tiny_gpt2.vocab.tokenize("abcaxcx2d12[", add_special=False):
        chain.accept(byte)
    with pytest.raises(LlamaCffiError):  # the word itself is nothing that the grammar allows
        for byte in tiny_gpt2.vocab.tokenize(word, add_special=False):
            chain.accept(byte)


def test_a_token_that_goes_on_past_the_trigger(tiny_gpt2: Model, output: Context) -> None:
    """The token "the" completes the trigger "th" and breaks the grammar at once: it is refused, or
    an error; but what comes after a reset is sound."""
    grammar = {"grammar": 'root ::= "th" "x"', "trigger_words": ["th"]}
    chain = SamplerChain(tiny_gpt2, [("grammar", grammar), "greedy"])
    output.logits()[:] = 0
    output.logits()[token_of(tiny_gpt2, "the")] = 9
    for _ in range(3):
        with suppress(LlamaCffiError):
            chain.sample(output)
    chain.reset()
    assert walk(chain, output, tiny_gpt2, "ab") == "ab"


@pytest.mark.parametrize(
    "given",
    [
        {"trigger_patterns": ["("]},
        {"trigger_patterns": ["a{2,1}"]},
        {"trigger_patterns": [""]},
        {"trigger_patterns": ["\ud800"]},
        {"trigger_patterns": [5]},
        {"trigger_patterns": "<tool>"},
        {"trigger_words": "<tool>"},
        {"trigger_words": [""]},
        {"trigger_tokens": [-1]},
        {"trigger_tokens": [10**9]},
    ],
    ids=ascii,
)
def test_refused_triggers(tiny_gpt2: Model, given: dict[str, Any]) -> None:
    with pytest.raises((LlamaCffiError, TypeError)):
        SamplerChain(tiny_gpt2).add("grammar", grammar='root ::= "a"', **given)


def test_a_refused_pattern_is_named(tiny_gpt2: Model) -> None:
    with pytest.raises(ParameterError, match="trigger_patterns"):
        SamplerChain(tiny_gpt2).add("grammar", grammar='root ::= "a"', trigger_patterns=["(x"])
