"""An answer in pieces says what the whole says, however it is cut and whatever is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llamacffi.answer import Answer, parser_of
from llamacffi.errors import TemplateError
from llamacffi.templates import AnswerParser, find_template
from tests.chats import joined_deltas
from tests.conversations import SEARCH, WEATHER, user

FRAGMENTS = [
    "<tool_call>\n", "</tool_call>", '{"name": "get_weather", "arguments": {"city": "', "Oslo",
    '"}}', "\n", " ", "é🙂", "<", "<tool", "{", "}", '"', "Hello", "<think>", "</think>", "\\",
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
    '<tool_call>\n{"name": "search", "arguments": {"query": "x", "filters": {"kinds": []}}}\n'
    "</tool_call>",
]  # fmt: skip
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join)


@pytest.fixture(scope="module")
def parse() -> AnswerParser:
    template = find_template("chatml")
    found = parser_of(template, template.render([user("Hi")], [WEATHER, SEARCH]))
    assert found is not None
    return found


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(texts, st.lists(st.integers(0, 400), max_size=12), st.booleans(), st.sampled_from([None, 1]))
def test_pieces(
    parse: AnswerParser,
    pieces: Callable[[str, Sequence[int]], list[str]],
    text: str,
    places: list[int],
    cut: bool,
    n_calls_max: int | None,
) -> None:
    try:
        parse(text, False)
    except TemplateError:
        assume(False)  # the grammar of calls lets no such answer come out
    answer, whole = Answer(parse, n_calls_max), Answer(parse, n_calls_max)
    deltas = [answer.push(piece) for piece in pieces(text, places)]
    deltas.append(answer.finish(cut))
    assert joined_deltas(deltas) == answer.message(cut)
    whole.push(text)
    contents = [
        {**made.message(cut), "tool_calls": [c["function"] for c in made._calls(made._parsed(cut))]}
        for made in (answer, whole)
    ]
    assert contents[0] == contents[1]


def test_a_long_answer_is_not_parsed_for_each_piece() -> None:
    parsed: list[int] = []

    def parse(text: str, partial: bool) -> dict[str, Any]:
        parsed.append(len(text))
        function = {"name": "f", "arguments": text}
        return {"content": "", "tool_calls": [{"type": "function", "function": function}]}

    answer = Answer(parse)
    deltas = [answer.push("x") for _ in range(5000)]
    deltas.append(answer.finish(cut=False))
    assert len(parsed) < 700
    assert joined_deltas(deltas) == answer.message(cut=False)


def test_a_text_that_breaks_its_form_is_not_lost(parse: AnswerParser) -> None:
    text = '{"x": "<tool_call>\n<tool_call>\n'
    answer = Answer(parse)
    deltas = [answer.push(character) for character in text]
    deltas.append(answer.finish(cut=False))
    assert joined_deltas(deltas)["content"] == answer.message(cut=False)["content"] == text


def test_what_no_parser_understands_is_a_text() -> None:
    def parse(text: str, partial: bool) -> dict[str, Any]:
        raise TemplateError("no")

    answer = Answer(parse)
    assert answer.push("Hello") == {}
    assert answer.finish(cut=False) == {"content": "Hello"}
