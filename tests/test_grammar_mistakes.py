"""Grammars with mistakes: the place of each, what is no grammar, and mutated ones."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacffi import Grammar, Model, SamplerChain
from llamacffi.errors import GrammarError
from tests.grammars import applied, candidates, node_of

WRONG = [
    ("root", 1, 5, "::="),
    ('root := "a"', 1, 6, "::="),
    ('root ::= "a" %', 1, 14, "newline"),
    ('root ::= "é" %', 1, 14, "newline"),
    ('root ::= "日本🦙" "\\q"', 1, 17, "escape"),
    ('root ::= "\\x4"', 1, 13, "hex"),
    ('root ::= "a" )', 1, 14, "newline"),
    ('root ::= "a"\nx ::= %\n', 2, 7, "newline"),
    ('root ::= "a"\r\nx ::= %\r\n', 2, 7, "newline"),
    ('root ::= "a"\rx ::= %', 2, 7, "newline"),
    ('# é\n\n  root ::= "a"\n # b\n x ::= %', 5, 8, "newline"),
    ('root ::= "a"\nx ::= ("b" | "c"', 2, 17, "')'"),
    ("root ::= (", 1, 11, "')'"),
    ('root ::= "a', 1, 12, "end of input"),
    ("root ::= [a-", 1, 13, "end of input"),
    ('root ::= "a"{', 1, 14, "int"),
    ('root ::= "a"{2,', 1, 16, "'}'"),
    ('root ::= "a"{2;3}', 1, 15, "','"),
    ('root ::= * "a"', 1, 10, "preceding item"),
    ('x ::= "a"\nroot ::= "a" foo', 2, 14, "'foo'"),
    ('root ::= o "x"', 1, 10, "'o'"),
    ('# foo is missing\nroot ::= "foo" foo', 2, 16, "'foo'"),
    ('foo-bar ::= "a"\nroot ::= foo-bar foo', 2, 18, "'foo'"),
    ('start ::= "a"', 1, 1, "'root'"),
    ("# only a comment", 1, 1, "'root'"),
    ('root ::= "a"\nx ::= "a"{3001}', 2, None, "repetitions"),
    ('root ::= "a"\nx ::= "a"{99999999999999999999}', 2, None, "repetitions"),
    ('root ::= "a"\nx ::= <[99999999999999999999]>', 2, None, "token"),
    ('root ::= "a"\nx ::= <no such token>', 2, None, "token"),
    ('root ::= "a"{5,2}', 1, None, "second number"),
    ('root ::= "a"\nx ::= x "b" | "c"', 2, None, "left recursion"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "column", "words"), WRONG)
def test_the_place_of_an_error(
    tiny_gpt2: Model,
    text: str,
    line: int,
    column: int | None,
    words: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(GrammarError) as caught:
        SamplerChain(tiny_gpt2).add("grammar", grammar=text)
    message = str(caught.value)
    assert words in message
    assert f"line {line}" in message.replace("Line", "line")
    if column is not None:
        assert f"line {line}, column {column}," in message
    assert capfd.readouterr() == ("", ""), "llama.cpp printed something"


@pytest.mark.parametrize(
    "given",
    [
        {"grammar": 'root ::= "\ud800"'},
        {"grammar": 'root ::= "a"', "root": "\ud800"},
        {"grammar": 'root ::= "a"', "root": "root\0x"},
        {"grammar": 'root ::= "a"', "root": None},
        {"grammar": Grammar(5)},  # type: ignore[arg-type]
        {"grammar": Grammar(b'root ::= "a"')},  # type: ignore[arg-type]
        {"grammar": b'root ::= "a"'},
        {"grammar": None},
        {"grammar": Grammar('root ::= "a"', root="nope")},
    ],
    ids=ascii,
)
def test_what_is_no_grammar(tiny_gpt2: Model, given: dict[str, Any]) -> None:
    with pytest.raises(GrammarError):
        SamplerChain(tiny_gpt2).add("grammar", **given)


SOUND = (
    'root ::= alpha | beta{2,5} "é" # e\nalpha ::= [a-z\\]]+ ("x" | beta?)*\nbeta ::= "\\x41\\n" .',
    'root ::= <[5]> !<[6]> [^"]* alpha\r\nalpha ::= ("b" ("c" | [0-9-]){1,3})+\r\n',
)


@settings(max_examples=150, deadline=None)
@given(
    sound=st.sampled_from(SOUND),
    edits=st.lists(
        st.tuples(
            st.integers(0, 200), st.integers(0, 3), st.text(alphabet='"[](){}|*+?,-\\<>!.#\n\r5 xé')
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_mutated_grammars(tiny_gpt2: Model, sound: str, edits: list[tuple[int, int, str]]) -> None:
    """Those rules cannot come to call themselves, which is for the child processes below."""
    text = sound
    for place, cut, insert in edits:
        place %= len(text) + 1
        text = text[:place] + insert[:4] + text[place + cut :]
    with suppress(GrammarError):
        node = node_of(tiny_gpt2, text)
        left, _ = applied(tiny_gpt2, node, candidates(np.zeros(len(tiny_gpt2.vocab), np.float32)))
        assert len(left) == len(tiny_gpt2.vocab)
