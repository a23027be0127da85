"""A chat session: its history is the truth, and its memory follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llamacffi import ChatSession, Context, Model, SamplingParams
from llamacffi.errors import (
    ParameterError,
    TemplateError,
)
from llamacffi.templates import Prompt, Template
from tests.conftest import N_THREADS
from tests.sessions import roles, scripted, session_on

TERSE = "Answer in one word."


def cached(session: ChatSession) -> int:
    return session.usage.cached_tokens


# -- asking -------------------------------------------------------------------------------------


def test_the_next_answer_is_that_of_a_fresh_session(context: Context) -> None:
    session = session_on(context, system=TERSE)
    session.ask("What is the capital of France?")
    session.ask("And of Spain?")
    session.edit(1, "What is the capital of Portugal?")
    session.regenerate()
    session.remove(2)
    session.rewind()
    session.system = "You like the sea."
    session.append({"role": "assistant", "content": "Ahoy!"})
    other = session.fork()
    answers = [one.ask("Which way is north?") for one in (session, other)]
    fresh = session_on(context.model.context(n_ctx=512, n_threads=N_THREADS))
    fresh.append({"role": "system", "content": "You like the sea."})
    for message in session.messages[1:-2]:
        fresh.append(message)
    assert [fresh.ask("Which way is north?")] * 2 == answers
    assert fresh.messages == session.messages == other.messages
    fresh.context.close()


def test_what_was_computed_is_not_computed_again(context: Context) -> None:
    session = session_on(context, system=TERSE)
    session.ask("What is the capital of France?")
    assert cached(session) == 0
    first = session.usage
    session.ask("And of Spain?")
    assert cached(session) >= first.prompt_tokens + first.completion_tokens - 1
    session.regenerate()
    assert cached(session) == session.usage.prompt_tokens - 1
    twin = session.fork()
    twin.ask("And of Italy?")
    assert cached(twin) > session.usage.prompt_tokens
    session.ask("And of Greece?")
    assert cached(session) > first.total_tokens
    session.edit(-4, "And of Malta?")
    session.regenerate()
    assert first.prompt_tokens < cached(session) < session.usage.prompt_tokens


def test_a_stream_gives_the_answer_in_pieces(context: Context) -> None:
    session = session_on(context)
    whole = session.ask("Count to three.")
    again = session_on(context)
    pieces = list(again.stream("Count to three."))
    assert len(pieces) > 1
    assert "".join(pieces) == whole == again.messages[-1]["content"]
    assert session.finish_reason == again.finish_reason == "length"


def test_options_of_one_question(tiny_falcon: Model, on_falcon: Context) -> None:
    session = session_on(on_falcon, sampling=scripted(tiny_falcon.vocab, *["one two three"] * 9))
    session._max_tokens = None
    assert session.ask("a", stop=" two") == "one"
    assert session.finish_reason == "stop"
    assert len(session.ask("b", max_tokens=2)) < 8
    assert session.finish_reason == "length"
    assert session.ask("c", sampling=scripted(tiny_falcon.vocab, "else")) == "else"
    assert session.ask({"role": "user", "content": [{"type": "text", "text": "d"}]}) == (
        "one two three"
    )
    for bad in (0, -1, True, "3"):
        with pytest.raises(ParameterError, match="max_tokens"):
            session.ask("e", max_tokens=bad)
    for wrong in ({"content": "x"}, 3, None, [{"type": "image_url"}]):
        with pytest.raises(TemplateError):
            session.ask(wrong)
    assert roles(session) == "uaua" * 2


@pytest.mark.parametrize(
    "options",
    [{"max_tokens": 0}, {"max_tool_rounds": -1}, {"reasoning_budget": -2}, {"overflow": "maybe"},
     {"tools": [3]}, {"tools": "get"}, {"tools": [{"type": "function"}]}],
)  # fmt: skip
def test_arguments_that_make_no_sense(on_falcon: Context, options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        session_on(on_falcon, **options)


def test_regenerating_uses_other_random_numbers(on_falcon: Context) -> None:
    def session() -> ChatSession:
        return session_on(on_falcon, sampling=SamplingParams(seed=7, temperature=5), max_tokens=12)

    one, two = session(), session()
    first = one.ask("hello")
    again = [one.regenerate() for _ in range(3)]
    assert len({first, *again}) > 1
    assert two.ask("hello") == first
    assert [two.regenerate() for _ in range(3)] == again
    # A later question is answered as if nothing had been answered twice.
    two.rewind()
    two.ask("hello")
    one.edit(-1, first)
    two.edit(-1, first)
    assert one.ask("and?") == two.ask("and?")


def test_nothing_to_answer_again(on_falcon: Context) -> None:
    session = session_on(on_falcon, system="a")
    with pytest.raises(ParameterError, match="ask something"):
        session.regenerate()
    session.append({"role": "user", "content": "hello"})
    session.regenerate()
    assert roles(session) == "sua"


def test_thoughts_are_handed_out(on_falcon: Context) -> None:
    class Thinking(Template):
        name = "thinking"

        def render(self, messages: Any, tools: Any = (), options: Any = None) -> Prompt:
            return Prompt((("think", True),))

        def parse(self, text: str, partial: bool = False) -> dict[str, Any]:
            thought, _, content = text.partition(".")
            return {"reasoning_content": thought, "content": content}

    thoughts: list[str] = []
    session = session_on(
        on_falcon,
        template=Thinking(),
        sampling=scripted(on_falcon.model.vocab, *["hm hm.hello"] * 3),
        max_tokens=50,
        on_reasoning=thoughts.append,
        output_transform=lambda pieces: (piece.upper() for piece in pieces),
    )
    assert session.ask("x") == "HELLO"
    assert "".join(thoughts) == "hm hm"
    assert session.messages[-1] == {
        "role": "assistant", "content": "HELLO", "reasoning_content": "hm hm",
    }  # fmt: skip
    assert session.ask("y", max_tokens=3) == ""  # it was still thinking
    assert session.messages[-1]["content"] == ""
    stream = session.fork().stream("z")
    next(stream)
    stream.close()


# -- the history ----------------------------------------------------------------------------------


def test_the_history_belongs_to_the_session(on_falcon: Context) -> None:
    given = [{"role": "user", "content": [{"type": "text", "text": "a"}], "more": {"x": [1]}}]
    session = session_on(on_falcon, messages=given)
    given[0]["more"]["x"].append(2)  # type: ignore[index]  # a dictionary, as was just written
    session.messages[0]["content"] = "b"
    twin = session.fork()
    twin.edit(0, "c")
    assert session.messages[0]["more"] == {"x": [1]}
    assert session.messages[0]["content"] == [{"type": "text", "text": "a"}]


def test_places_in_the_history(on_falcon: Context) -> None:
    session = session_on(on_falcon, messages=[{"role": "user", "content": c} for c in "abc"])
    session.edit(-1, "C")
    session.edit(0, "A")
    session.remove(-2)
    assert [message["content"] for message in session.messages] == ["A", "C"]
    for place in (2, -3, 10**30):
        for change in (session.remove, lambda place: session.edit(place, "x")):
            with pytest.raises(IndexError, match="the history has 2"):
                change(place)
    for n_turns in (3, -1):
        with pytest.raises(ParameterError, match="Choose 0 to 2"):
            session.rewind(n_turns)
    with pytest.raises(TemplateError):
        session.edit(0, 3)
    session.rewind(0)
    session.rewind(2)
    assert session.messages == []
    with pytest.raises(IndexError, match="ask something"):
        session.remove(0)


def test_the_system_message(on_falcon: Context) -> None:
    session = session_on(on_falcon)
    assert session.system is None
    session.system = "a"
    session.ask("x")
    session.system = "b"
    with pytest.raises(TemplateError):
        session.system = 3  # type: ignore[assignment]  # what is tested
    assert session.system == "b"
    assert roles(session) == "sua"
    session.system = None
    session.system = None
    assert (session.system, roles(session)) == (None, "ua")
    parts = [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]
    assert session_on(on_falcon, messages=[{"role": "system", "content": parts}]).system == "c\nd"


def test_a_transform_of_the_history(on_falcon: Context) -> None:
    def loud(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        messages[-1]["content"] = messages[-1]["content"].upper()
        return messages

    session = session_on(on_falcon, history_transform=loud)
    session.ask("hello there")
    assert session.messages[0]["content"] == "hello there"
    assert "HELLO THERE" in session.model.vocab.detokenize(on_falcon.memory.tokens())
    for bad in (lambda messages: None, lambda messages: [3], lambda messages: []):
        session._history_transform = bad  # type: ignore[assignment]  # what is tested
        with pytest.raises((TemplateError, TypeError)):
            session.ask("x")
        assert roles(session) == "ua"


def by_words(pieces: Iterator[str]) -> Iterator[str]:
    """Holds text back until a word is complete: needs one iterator for the whole answer."""
    held = ""
    for piece in pieces:
        held += piece
        *words, held = held.split(" ")
        yield from (word + " " for word in words)
    yield held.upper()


def test_a_transform_of_the_answer(tiny_falcon: Model, on_falcon: Context) -> None:
    session = session_on(
        on_falcon,
        sampling=scripted(tiny_falcon.vocab, *["hello and again"] * 9),
        max_tokens=50,
        output_transform=by_words,
    )
    assert list(session.stream("x")) == ["hello ", "and ", "AGAIN"]
    assert session.messages[-1]["content"] == "hello and AGAIN"
    stream = session.stream("y")
    assert next(stream) == "hello "
    stream.close()
    assert session.messages[-1]["content"] == "hello "
    session._output_transform = lambda pieces: ["all " + "".join(pieces)]
    assert session.ask("z") == session.messages[-1]["content"] == "all hello and again"
    session._output_transform = lambda pieces: iter([next(pieces)])  # leaves the rest
    assert "hello and again".startswith(session.ask("z"))
    session._output_transform = lambda pieces: [str(len(list(pieces)))][:0]
    assert session.ask("z") == ""
    before = session.messages
    for bad in (lambda pieces: 3, lambda pieces: [3], lambda pieces: iter([1 / 0])):
        session._output_transform = bad  # type: ignore[assignment]  # what is tested
        with pytest.raises((TypeError, ParameterError, ZeroDivisionError)):
            session.ask("z")
    assert session.messages == before
