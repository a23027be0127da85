"""Grammars: what they allow, in completions, files, copies and tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from llamacffi import Context, Grammar, Llama, Model, SamplerChain
from llamacffi.errors import GrammarError, LlamaCffiError, SamplingError
from tests.chains import text_of
from tests.grammars import token_of

INF = math.inf
BAD_GRAMMARS = [
    "", "   ", "root", "root ::= (", 'root ::= "a', "root ::= foo", "foo ::= [a]",
    "root ::= [z-", "root ::= root", 'root ::= root "a" | "b"', 'root ::= "\0"',
    "{}", "root ::= \x80\xff", 'root ::= "\\x"', "root ::= *", "a" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("grammar", BAD_GRAMMARS)
def test_malformed_grammars(llama: Llama, grammar: str) -> None:
    with pytest.raises(GrammarError):
        SamplerChain(llama.model).add("grammar", grammar=grammar)
    with pytest.raises(GrammarError):
        text_of(llama, grammar=grammar)


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


def test_a_file_and_a_string_are_the_same(tmp_path: Path, llama: Llama) -> None:
    path = tmp_path / "yes.gbnf"
    path.write_bytes('root ::= ("é"\r\n  | "è")\r\n'.encode())
    given: list[Any] = [path, Grammar.from_file(path), Grammar.from_string('root ::= "é" | "è"')]
    assert len({text_of(llama, grammar=grammar, temperature=0) for grammar in given}) == 1


def test_a_file_that_begins_with_a_byte_order_mark(tmp_path: Path, tiny_gpt2: Model) -> None:
    path = tmp_path / "notepad.gbnf"
    path.write_text('root ::= "a"', encoding="utf-8-sig")
    assert len(SamplerChain(tiny_gpt2).add("grammar", grammar=path)) == 1


def test_files_that_are_no_grammars(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Grammar.from_file(tmp_path / "none")
    path = tmp_path / "latin.gbnf"
    path.write_bytes(b'root ::= "\xe9"')
    with pytest.raises(GrammarError, match="UTF-8"):
        Grammar.from_file(path)
    path.write_bytes(b"#" * (4 * 2**20 + 1))
    with pytest.raises(GrammarError, match="bytes"):
        Grammar.from_file(path)


def test_two_grammars_hold_together(tiny_gpt2: Model, output: Context) -> None:
    chain = SamplerChain(tiny_gpt2, ["greedy"])
    chain.add("grammar", grammar="root ::= [abc]+").add("grammar", grammar="root ::= [bcd]+")
    logits = output.logits()
    for wished, wanted in (("a", "b"), ("d", "c"), ("c", "c")):
        logits[:] = 0
        logits[token_of(tiny_gpt2, wished)] = 9
        logits[token_of(tiny_gpt2, wanted)] += 5
        assert chain.sample(output) == token_of(tiny_gpt2, wanted)


def test_a_copy_has_the_place_in_the_grammar(tiny_gpt2: Model, output: Context) -> None:
    chain = SamplerChain(tiny_gpt2, [("grammar", {"grammar": 'root ::= "abcd"'}), "greedy"])
    output.logits()[:] = 0
    a, b, c, d = (token_of(tiny_gpt2, letter) for letter in "abcd")
    assert [chain.sample(output), chain.sample(output)] == [a, b]
    copies = [chain.clone(), chain.with_seed(5)]
    assert chain.sample(output) == c
    for copy in copies:
        assert [copy.sample(output), copy.sample(output)] == [c, d]
    assert chain.sample(output) == d
    chain.reset()
    assert chain.sample(output) == a
    chain.close()
    copies[0].reset()
    assert copies[0].sample(output) == a


def test_an_end_comes_when_the_grammar_is_at_its_end(tiny_gpt2: Model, output: Context) -> None:
    chain = SamplerChain(tiny_gpt2, [("grammar", {"grammar": 'root ::= "a"'}), "greedy"])
    output.logits()[:] = 0
    assert chain.sample(output) == token_of(tiny_gpt2, "a")
    assert tiny_gpt2.vocab.is_eog(chain.sample(output))


@pytest.mark.parametrize("more", [[], [("top_k", {"k": 5})], ["typical"]])
def test_all_that_the_grammar_allows_is_banned(
    tiny_gpt2: Model, output: Context, more: list[Any]
) -> None:
    a = token_of(tiny_gpt2, "a")
    chain = SamplerChain(tiny_gpt2, [*more, ("dist", {"seed": 1})])
    chain.add("grammar", grammar='root ::= "ab"').add("logit_bias", bias={a: -INF})
    output.logits()[:] = 0
    for _ in range(2):
        with pytest.raises(SamplingError, match="grammar"):
            chain.sample(output)
    assert SamplerChain(tiny_gpt2, ["greedy"]).sample(output) == 0, "the first of equals"


@pytest.mark.parametrize("rule", ['"t" !<[5]>', '"t" <[{the}]>', '"t" ("h" | <[{the}]>)'])
def test_a_token_that_spans_a_character_and_a_token_rule(
    tiny_gpt2: Model, output: Context, rule: str
) -> None:
    """What the grammar allows when asked, it must take when told."""
    the = token_of(tiny_gpt2, "the")
    grammar = {"grammar": "root ::= " + rule.replace("{the}", str(the))}
    chain = SamplerChain(tiny_gpt2, [("grammar", grammar), "greedy"])
    output.logits()[:] = 0
    output.logits()[the] = 9
    assert chain.sample(output) == token_of(tiny_gpt2, "t")
