"""A chat session: its history is the truth, and its memory follows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from llamacffi import ChatSession, Context, Llama, Model, SamplingParams
from llamacffi.errors import (
    CancelledError,
    ClosedError,
    ParameterError,
    TemplateError,
)
from tests.conftest import N_THREADS
from tests.sessions import GREEDY, scripted, session_on, tiny_model

TERSE = "Answer in one word."


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with tiny_model(tmp_path_factory.mktemp("tiny")) as model:
        yield model


@pytest.fixture
def on_tiny(tiny: Model) -> Iterator[Context]:
    with tiny.context(n_ctx=1024, n_seq_max=2, kv_unified=True, n_threads=1) as made:
        yield made


def roles(session: ChatSession) -> str:
    return "".join(message["role"][0] for message in session.messages)


def prompt_of(session: ChatSession) -> list[int]:
    """The tokens of the prompt for the last user's message."""
    messages = session.messages
    while messages[-1]["role"] != "user":
        messages.pop()
    return session.template.render(messages).tokens(session.model.vocab)


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


def test_options_of_one_question(tiny: Model, on_tiny: Context) -> None:
    session = session_on(on_tiny, sampling=scripted(tiny.vocab, *["one two three"] * 9))
    session._max_tokens = None
    assert session.ask("a", stop=" two") == "one"
    assert session.finish_reason == "stop"
    assert len(session.ask("b", max_tokens=2)) < 8
    assert session.finish_reason == "length"
    assert session.ask("c", sampling=scripted(tiny.vocab, "else")) == "else"
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
def test_arguments_that_make_no_sense(on_tiny: Context, options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        session_on(on_tiny, **options)


def test_regenerating_uses_other_random_numbers(on_tiny: Context) -> None:
    def session() -> ChatSession:
        return session_on(on_tiny, sampling=SamplingParams(seed=7, temperature=5), max_tokens=12)

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


def test_nothing_to_answer_again(on_tiny: Context) -> None:
    session = session_on(on_tiny, system="a")
    with pytest.raises(ParameterError, match="ask something"):
        session.regenerate()
    session.append({"role": "user", "content": "hello"})
    session.regenerate()
    assert roles(session) == "sua"


# -- the history ----------------------------------------------------------------------------------


def test_the_history_belongs_to_the_session(on_tiny: Context) -> None:
    given = [{"role": "user", "content": [{"type": "text", "text": "a"}], "more": {"x": [1]}}]
    session = session_on(on_tiny, messages=given)
    given[0]["more"]["x"].append(2)  # type: ignore[index]  # a dictionary, as was just written
    session.messages[0]["content"] = "b"
    twin = session.fork()
    twin.edit(0, "c")
    assert session.messages[0]["more"] == {"x": [1]}
    assert session.messages[0]["content"] == [{"type": "text", "text": "a"}]


def test_places_in_the_history(on_tiny: Context) -> None:
    session = session_on(on_tiny, messages=[{"role": "user", "content": c} for c in "abc"])
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


def test_the_system_message(on_tiny: Context) -> None:
    session = session_on(on_tiny)
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
    assert session_on(on_tiny, messages=[{"role": "system", "content": parts}]).system == "c\nd"


def test_a_transform_of_the_history(on_tiny: Context) -> None:
    def loud(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        messages[-1]["content"] = messages[-1]["content"].upper()
        return messages

    session = session_on(on_tiny, history_transform=loud)
    session.ask("hello there")
    assert session.messages[0]["content"] == "hello there"
    assert "HELLO THERE" in session.model.vocab.detokenize(on_tiny.memory.tokens())
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


def test_a_transform_of_the_answer(tiny: Model, on_tiny: Context) -> None:
    session = session_on(
        on_tiny,
        sampling=scripted(tiny.vocab, *["hello and again"] * 9),
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


# -- what stays of an answer that did not end ----------------------------------------------------


def test_a_stream_closed_half_way(tiny: Model, on_tiny: Context) -> None:
    session = session_on(on_tiny, sampling=scripted(tiny.vocab, *["hello again"] * 9))
    session._max_tokens = None
    unread = session.stream("never asked")
    del unread
    assert session.messages == []
    stream = session.stream("x")
    shown = next(stream) + next(stream)
    stream.close()
    assert session.messages[-1] == {"role": "assistant", "content": shown}
    assert session.finish_reason is None
    for piece in session.stream("y"):
        if piece:
            break
    assert roles(session) == "uaua"
    with pytest.raises(ZeroDivisionError):
        for _ in session.stream("z"):
            _ = 1 / 0
    assert roles(session) == "uauaua"
    session.ask("and now?")
    assert session.messages[-1]["content"] == "hello again"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("at", [0, 3])
def test_an_exception_in_the_middle(
    tiny: Model, on_tiny: Context, kind: type[BaseException], at: int
) -> None:
    script = scripted(tiny.vocab, *["hello again"] * 9).processors[0]
    calls = []

    def processor(tokens: Any, logits: Any) -> None:
        calls.append(len(tokens))
        if len(calls) == at + 1:
            raise kind
        script(tokens, logits)

    sampling = SamplingParams(temperature=0, processors=[processor])
    session = session_on(on_tiny, sampling=sampling)
    with pytest.raises(kind):
        session.ask("x")
    stays = at > 0 and kind is not RuntimeError
    assert roles(session) == ("ua" if stays else "")
    session.ask("y")
    assert roles(session).endswith("ua")


def test_cancelled(tiny: Model, on_tiny: Context) -> None:
    session = session_on(on_tiny, sampling=scripted(tiny.vocab, *["hello again"] * 9))
    stream = session.stream("x")
    next(stream)
    next(stream)
    on_tiny.cancel()
    with pytest.raises(CancelledError):
        list(stream)
    assert roles(session) == "ua"
    on_tiny.cancel()
    with pytest.raises(CancelledError):
        session.ask("y")
    assert roles(session) == "ua"
    assert session.ask("y")


def test_a_change_ends_a_stream(on_tiny: Context) -> None:
    session = session_on(on_tiny)
    for change in (
        lambda: session.ask("more"),
        lambda: session.append({"role": "user", "content": "more"}),
        lambda: session.edit(0, "more"),
        lambda: session.remove(-1),
        lambda: setattr(session, "system", "more"),
        lambda: session.rewind(),
    ):
        session.messages.clear()
        stream = session.stream("x")
        next(stream)
        change()
        after = session.messages
        with pytest.raises(CancelledError, match="closed by a change"):
            list(stream)
        assert session.messages == after


def test_a_session_does_not_change_itself(tiny: Model, on_tiny: Context) -> None:
    def meddling(pieces: Iterator[str]) -> Iterator[str]:
        yield next(pieces)
        session.rewind()

    session = session_on(on_tiny, output_transform=meddling)
    with pytest.raises(ParameterError, match="while it answers"):
        session.ask("x")
    assert session.messages == []


def test_an_error_of_the_template(on_tiny: Context) -> None:
    refusing = (
        "{% for m in messages %}{% if m['content'] == 'no' %}{{ raise_exception('I will not') }}"
        "{% endif %}{{ m['content'] }}{% endfor %}"
    )
    session = session_on(on_tiny, template=refusing)
    session.ask("yes")
    with pytest.raises(TemplateError, match="I will not"):
        session.ask("no")
    assert roles(session) == "ua"
    assert session.ask("yes") is not None
    with pytest.raises(TemplateError):
        session_on(on_tiny, template="nosuch")


def test_closed(tiny: Model) -> None:
    context = tiny.context(n_ctx=128, n_threads=1)
    session, other = session_on(context), session_on(context)
    session.ask("x")
    stream = session.stream("y")
    next(stream)
    context.close()
    with pytest.raises(ClosedError):
        list(stream)
    for act in (lambda: session.ask("z"), session.fork, session.regenerate):
        with pytest.raises(ClosedError):
            act()
    assert roles(session) == "ua"
    session.close()
    session.close()
    other.close()
    with pytest.raises(ClosedError, match="session is closed"):
        session.ask("z")


def test_a_llama_to_share(llama: Llama) -> None:
    def text(max_tokens: int) -> str:
        result = llama.create_completion("The capital of France is", max_tokens=max_tokens,
                                         temperature=0)  # fmt: skip
        assert isinstance(result, dict)
        return str(result["choices"][0]["text"])

    expected = text(8)
    session = ChatSession(llama, sampling=GREEDY, max_tokens=6)
    alone = session.ask("What is your name?")
    session.rewind()
    found = ""
    for piece in session.stream("What is your name?"):  # a call between any two tokens
        found += piece
        assert text(8) == expected
    assert found == alone
    # The same thread's unfinished stream of the Llama gives way, as to another call of its own.
    stream = iter(llama.create_completion("The capital", max_tokens=8, stream=True))
    next(stream)
    session.ask("And mine?")
    with pytest.raises(CancelledError, match="superseded"):
        list(stream)
    stream = iter(llama.create_completion("The capital", max_tokens=2, stream=True))
    next(stream)
    session.close()
    assert list(stream)
    assert not llama.context.closed
    # Another thread's answer is waited for.
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.extend(text(8) for _ in range(3)))
    thread.start()
    other = ChatSession(llama, sampling=GREEDY, max_tokens=6)
    assert [other.ask("What is your name?"), other.regenerate()] == [alone, alone]
    thread.join()
    assert results == [expected] * 3


# -- any sequence of operations --------------------------------------------------------------------


class Operations(RuleBasedStateMachine):
    """After whatever was done, the memory holds the prompt, and as much of it as can be."""

    model: Model

    @initialize(n_seq_max=st.sampled_from([1, 2]), unified=st.booleans())
    def begin(self, n_seq_max: int, unified: bool) -> None:
        self.context = self.model.context(
            n_ctx=1024 * n_seq_max, n_seq_max=n_seq_max, kv_unified=unified, n_threads=1
        )
        self.sessions = [session_on(self.context, max_tokens=3)]
        self.at = 0

    @property
    def session(self) -> ChatSession:
        return self.sessions[self.at % len(self.sessions)]

    def check(self) -> None:
        sequence = self.session._seats.sequence_of(self.session)
        assert sequence is not None
        held = self.context.memory.tokens(sequence)
        assert held[: len(prompt_of(self.session))] == prompt_of(self.session)
        assert len(held) == self.context.memory.position_max(sequence) + 1

    @rule(text=st.sampled_from(["a", "hello", "the time", "x" * 30]))
    def ask(self, text: str) -> None:
        self.session.ask(text)
        self.check()

    @rule()
    def regenerate(self) -> None:
        if "user" in [message["role"] for message in self.session.messages]:
            self.session.regenerate()
            self.check()
            assert cached(self.session) <= self.session.usage.prompt_tokens - 1

    @rule(n_pieces=st.integers(0, 2))
    def stream(self, n_pieces: int) -> None:
        stream = self.session.stream("go on")
        for _ in range(n_pieces):
            next(stream, None)
        stream.close()

    @rule(place=st.integers(-3, 3), text=st.sampled_from(["b", "hello", "Z" * 20]))
    def edit(self, place: int, text: str) -> None:
        if -len(self.session.messages) <= place < len(self.session.messages):
            self.session.edit(place, text)

    @rule(place=st.integers(-3, 3))
    def remove(self, place: int) -> None:
        if -len(self.session.messages) <= place < len(self.session.messages):
            self.session.remove(place)

    @rule(text=st.sampled_from([None, "s", "be kind"]))
    def set_system(self, text: str | None) -> None:
        self.session.system = text

    @rule()
    def rewind(self) -> None:
        self.session.rewind(min(1, [m["role"] for m in self.session.messages].count("user")))

    @precondition(lambda self: len(self.sessions) < 4)
    @rule()
    def fork(self) -> None:
        twin = self.session.fork()
        assert twin.messages == self.session.messages
        self.sessions.append(twin)

    @rule()
    def switch(self) -> None:
        self.at += 1

    @precondition(lambda self: len(self.sessions) > 1)
    @rule()
    def forget(self) -> None:
        del self.sessions[0]

    @rule()
    def clear_by_hand(self) -> None:
        self.context.memory.clear()

    def teardown(self) -> None:
        self.context.close()


def test_any_sequence_of_operations(tiny: Model) -> None:
    Operations.model = tiny
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Operations,
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
