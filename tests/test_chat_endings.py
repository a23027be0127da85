"""Answers that do not end by themselves: what stays of them, and what can be done after it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llamacffi import ChatSession, Context, Llama, Model, SamplingParams
from llamacffi.errors import CancelledError, ClosedError, ParameterError, TemplateError
from tests.sessions import GREEDY, roles, scripted, session_on


def test_a_stream_closed_half_way(tiny_falcon: Model, on_falcon: Context) -> None:
    session = session_on(on_falcon, sampling=scripted(tiny_falcon.vocab, *["hello again"] * 9))
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
    tiny_falcon: Model, on_falcon: Context, kind: type[BaseException], at: int
) -> None:
    script = scripted(tiny_falcon.vocab, *["hello again"] * 9).processors[0]
    calls = []

    def processor(tokens: Any, logits: Any) -> None:
        calls.append(len(tokens))
        if len(calls) == at + 1:
            raise kind
        script(tokens, logits)

    sampling = SamplingParams(temperature=0, processors=[processor])
    session = session_on(on_falcon, sampling=sampling)
    with pytest.raises(kind):
        session.ask("x")
    stays = at > 0 and kind is not RuntimeError
    assert roles(session) == ("ua" if stays else "")
    session.ask("y")
    assert roles(session).endswith("ua")


def test_cancelled(tiny_falcon: Model, on_falcon: Context) -> None:
    session = session_on(on_falcon, sampling=scripted(tiny_falcon.vocab, *["hello again"] * 9))
    stream = session.stream("x")
    next(stream)
    next(stream)
    on_falcon.cancel()
    with pytest.raises(CancelledError):
        list(stream)
    assert roles(session) == "ua"
    on_falcon.cancel()
    with pytest.raises(CancelledError):
        session.ask("y")
    assert roles(session) == "ua"
    assert session.ask("y")


def test_a_change_ends_a_stream(on_falcon: Context) -> None:
    session = session_on(on_falcon)
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


def test_a_session_does_not_change_itself(tiny_falcon: Model, on_falcon: Context) -> None:
    def meddling(pieces: Iterator[str]) -> Iterator[str]:
        yield next(pieces)
        session.rewind()

    session = session_on(on_falcon, output_transform=meddling)
    with pytest.raises(ParameterError, match="while it answers"):
        session.ask("x")
    assert session.messages == []


def test_an_error_of_the_template(on_falcon: Context) -> None:
    refusing = (
        "{% for m in messages %}{% if m['content'] == 'no' %}{{ raise_exception('I will not') }}"
        "{% endif %}{{ m['content'] }}{% endfor %}"
    )
    session = session_on(on_falcon, template=refusing)
    session.ask("yes")
    with pytest.raises(TemplateError, match="I will not"):
        session.ask("no")
    assert roles(session) == "ua"
    assert session.ask("yes") is not None
    with pytest.raises(TemplateError):
        session_on(on_falcon, template="nosuch")


def test_closed(tiny_falcon: Model) -> None:
    context = tiny_falcon.context(n_ctx=128, n_threads=1)
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
