"""Conversations that outgrow their context: the policies, and what each turn costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llamacffi import ChatSession, Context, Model, SamplingParams
from llamacffi.chat.overflow import Window, follow, shifts
from llamacffi.errors import ContextFullError, ParameterError
from tests.conftest import N_THREADS
from tests.sessions import scripted, session_on, tiny_model

ARCHITECTURES = ("llama", "falcon", "gemma3", "mamba", "jamba")
SYSTEM = "You are kind."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Model]]:
    folder = tmp_path_factory.mktemp("overflow")
    opened = [tiny_model(folder, name) for name in ARCHITECTURES]
    yield {name: manager.__enter__() for name, manager in zip(ARCHITECTURES, opened, strict=True)}
    for manager in opened:
        manager.__exit__(None, None, None)


@pytest.fixture
def small(models: dict[str, Model]) -> Iterator[Context]:
    with models["falcon"].context(n_ctx=256, n_threads=1) as made:
        assert shifts(made)
        yield made


def name_of(overflow: object) -> str:
    return getattr(overflow, "__name__", str(overflow))


def brief(messages: list[dict[str, Any]]) -> str:
    return f"{len(messages)} messages before."


def seen(session: ChatSession) -> str:
    """The prompt and answer that the memory holds, as text."""
    sequence = session._seats.sequence_of(session)
    assert sequence is not None
    held = session.context.memory.tokens(sequence)
    return session.model.vocab.detokenize(held, unparse_special=True)


def talk(session: ChatSession, n_tokens: int) -> list[tuple[int, int]]:
    """Ask until the history has so many tokens; (prompt tokens, computed ones) of each turn."""
    costs = []
    total = 0
    while total < n_tokens:
        session.ask(f"question {len(costs)}, once upon a time?")
        usage = session.usage
        costs.append((usage.prompt_tokens, usage.prompt_tokens - usage.cached_tokens))
        total += 40 + usage.completion_tokens
        assert SYSTEM in seen(session)
        assert f"question {len(costs) - 1}," in seen(session)
    return costs


@pytest.mark.parametrize("overflow", ["drop", "shift", brief], ids=name_of)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_twenty_times_the_context(
    models: dict[str, Model], architecture: str, overflow: Any
) -> None:
    n_ctx = 512
    with models[architecture].context(n_ctx=n_ctx, n_threads=1) as context:
        session = session_on(context, system=SYSTEM, overflow=overflow, max_tokens=12)
        costs = talk(session, 20 * n_ctx)
        assert all(prompt <= n_ctx - 12 for prompt, _ in costs)
        assert len(session.messages) == 1 + 2 * len(costs)
        third = len(costs) // 3
        early, late = (
            sum(computed for _, computed in part) / third
            for part in (costs[third : 2 * third], costs[-third:])
        )
        assert late < 1.3 * early + 10  # flat
        assert late < n_ctx / 2


def test_the_real_model(model: Model) -> None:
    n_ctx = 192
    with model.context(n_ctx=n_ctx, n_threads=N_THREADS) as context:
        costs = {}
        for overflow in ("drop", "shift"):
            session = session_on(context, system=SYSTEM, overflow=overflow, max_tokens=8)
            costs[overflow] = talk(session, 6 * n_ctx)
            session.close()
        # Shifting computes each message once, but for what stands at the seam.
        assert max(cost for _, cost in costs["shift"][1:]) < 60
        dropping = [cost for _, cost in costs["drop"]]
        assert max(dropping) > 60
        assert sum(dropping) < 2 * sum(cost for _, cost in costs["shift"])


def test_raise(small: Context) -> None:
    session = session_on(small, overflow="raise", max_tokens=8)
    with pytest.raises(ContextFullError, match="another overflow policy"):
        for turn in range(100):
            session.ask(f"question {turn}, once upon a time?")
    assert session.messages[-1]["role"] == "assistant"
    n_messages = len(session.messages)
    session.rewind(2)
    session.ask("again?")
    assert len(session.messages) == n_messages - 2


@pytest.mark.parametrize("overflow", ["drop", "shift", "raise", brief], ids=name_of)
def test_a_last_turn_that_does_not_fit(small: Context, overflow: Any) -> None:
    session = session_on(small, overflow=overflow, system=SYSTEM)
    session.ask("hello")
    before, window = session.messages, Window(**vars(session._window))
    with pytest.raises(ContextFullError, match="tokens; there is room for"):
        session.ask("long " * 300)
    assert session.messages == before
    assert session._window == window
    assert session.ask("short") is not None
    too_much = session_on(small, overflow=overflow, system="long " * 300)
    with pytest.raises(ContextFullError):
        too_much.ask("a")
    too_much.system = "short"
    too_much.ask("a")


def test_what_was_dropped_comes_back(small: Context) -> None:
    session = session_on(small, system=SYSTEM, max_tokens=4)
    session.ask("the first question")
    session.ask("x" * 100)
    session.ask("y" * 60)
    assert "the first question" not in seen(session)
    session.rewind()
    session.rewind()
    session.ask("and?")
    assert "the first question" in seen(session)
    session.ask("x" * 150)
    assert "the first question" not in seen(session)
    session.edit(1, "another question")  # is not seen, but changes what would be
    session.rewind()
    session.ask("and?")
    assert "another question" in seen(session)


def test_an_edit_before_the_window_is_seen_if_it_fits(small: Context) -> None:
    session = session_on(small, system=SYSTEM, max_tokens=4)
    session.ask("x" * 150)
    session.ask("y" * 100)
    assert session._window.start == 3
    session.edit(-3, "a short answer")  # the last message that was dropped
    session.edit(1, "short")
    session.regenerate()
    assert "short<" in seen(session)
    assert "a short answer" in seen(session)
    session.edit(0, "You are terse.")
    session.regenerate()
    assert "terse" in seen(session)


# -- summaries ------------------------------------------------------------------------------------


def test_summaries_get_the_dropped_messages(small: Context) -> None:
    given: list[list[dict[str, Any]]] = []

    def summarise(messages: list[dict[str, Any]]) -> str:
        given.append(messages)
        messages[-1]["content"] = "changed"  # a copy
        return f"summary {len(given)}"

    session = session_on(small, system=SYSTEM, overflow=summarise, max_tokens=8)
    for turn in range(20):
        session.ask(f"question {turn}?")
    assert len(given) > 2
    assert given[0][0]["content"] == "question 0?"
    assert given[1][0] == {"role": "system", "content": "summary 1"}
    assert f"{SYSTEM}\n\nsummary {len(given)}" in seen(session)
    assert "changed" not in str(session.messages)
    dropped = sum(len(messages) for messages in given) - len(given) + 1
    assert dropped == session._window.start - 1  # each message once, and the system's never


def test_a_session_that_summarises(models: dict[str, Model]) -> None:
    """The callable may use the same context."""
    with models["falcon"].context(n_ctx=256, n_threads=1) as context:
        helper = session_on(context, max_tokens=10)

        def summarise(messages: list[dict[str, Any]]) -> str:
            helper.rewind(len([m for m in helper.messages if m["role"] == "user"]))
            return helper.ask("Sum up: " + messages[0]["content"])

        session = session_on(context, overflow=summarise, max_tokens=8)
        for turn in range(20):
            session.ask(f"question {turn}?")
        assert session._window.summary


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda messages: 1 / 0, ZeroDivisionError),
        (lambda messages: None, ParameterError),
        (lambda messages: "long " * 200, ContextFullError),
        (lambda messages: (_ for _ in ()).throw(KeyboardInterrupt()), KeyboardInterrupt),
    ],
)
def test_summaries_that_fail(small: Context, bad: Any, error: type[BaseException]) -> None:
    session = session_on(small, system=SYSTEM, overflow=bad, max_tokens=8)
    with pytest.raises(error):
        for turn in range(100):
            session.ask(f"question {turn}?")
    assert session.messages[-1]["role"] == "assistant"
    assert session._window == Window()
    session._overflow = "drop"
    session.ask("and?")


# -- shifting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_answer_longer_than_the_context(models: dict[str, Model], architecture: str) -> None:
    model = models[architecture]
    long = "once upon a time " * 40
    with model.context(n_ctx=256, n_threads=1) as context:
        sampling = scripted(model.vocab, long, "short")
        session = session_on(
            context, system=SYSTEM, overflow="shift", sampling=sampling, max_tokens=1000
        )
        answer = session.ask("go on")
        if shifts(context):
            assert answer.strip() == long.strip()
            assert session.finish_reason == "stop"
            assert SYSTEM in seen(session)
            assert seen(session).count("once upon") < 20
        else:  # no error, but there is an end
            assert long.startswith(answer.strip())
            assert session.finish_reason == "length"
        held = context.memory.tokens()
        assert len(held) == context.memory.position_max() + 1 <= 256
        if architecture == "falcon":
            assert session.ask("and?") == "short"
            assert SYSTEM in seen(session)
            assert "go on" not in seen(session)


def test_a_removed_message_is_cut_out(small: Context) -> None:
    session = session_on(small, system=SYSTEM, overflow="shift", max_tokens=4)
    for text in ("the first question", "the second question", "the third question"):
        session.ask(text)
    session.remove(1)
    session.remove(1)
    session.ask("and?")
    assert "first" not in seen(session)
    assert session.usage.prompt_tokens - session.usage.cached_tokens < 60
    assert "the third" in seen(session)


def test_following_finds_only_what_is_there(small: Context) -> None:
    memory = small.memory

    def hold(tokens: list[int]) -> None:
        memory.clear()
        small.decode_tokens(tokens)

    for held, wanted, expected in (
        ([1, 2, *range(10, 40)], [1, 2, *range(20, 40)], [1, 2, *range(20, 40)]),
        ([1, 2, *range(10, 40)], [1, 2, *range(50, 80)], [1, 2, *range(10, 40)]),
        ([1, 2, *range(10, 17)], [1, 2, *range(11, 17)], [1, 2, *range(10, 17)]),  # too short
        ([7] * 100, [7] * 60 + [8], [7] * 100),
        ([7] * 100, [7] * 200, [7] * 100),
        ([1, 0, 0, 0, *[256] * 20], [1, *[1] * 20], [1, 0, 0, 0, *[256] * 20]),  # bytes alike
    ):
        hold(held)
        follow(small, 0, wanted)
        assert memory.tokens() == expected
        assert memory.position_max() == len(expected) - 1


def test_templates_without_a_system_message_alone(models: dict[str, Model]) -> None:
    """Some refuse a conversation of a system message and nothing else."""
    strict = (
        "{% if messages[-1]['role'] != 'user' %}{{ raise_exception('no question') }}{% endif %}"
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
    )
    model = models["falcon"]
    with model.context(n_ctx=128, n_threads=1) as context:
        session = session_on(
            context,
            system=SYSTEM,
            template=strict,
            overflow="shift",
            max_tokens=300,
            sampling=scripted(model.vocab, "once upon a time " * 15),
        )
        session.ask("go on")
        assert SYSTEM in seen(session)


def test_tools_across_the_overflow(models: dict[str, Model]) -> None:
    model = models["falcon"]

    def look(at: str) -> str:
        """Look."""
        return "a view of the sea " * 12

    call = '<tool_call>\n{"name": "look", "arguments": {"at": "x"}}\n</tool_call>'
    sampling = SamplingParams(
        temperature=0,
        processors=scripted(model.vocab, *["hello"] * 8, call, call, "done").processors,
    )
    with model.context(n_ctx=2048, n_threads=1) as context:
        session = session_on(context, sampling=sampling, max_tokens=200, tools=[look])
        for turn in range(8):
            session.ask(f"question {turn}? " + "x" * 100)
        assert session._window.start == 0
        assert session.ask("look twice") == "done"
        assert session._window.start > 0
        assert [m["role"] for m in session.messages[-6:]] == [
            "user", "assistant", "tool", "assistant", "tool", "assistant",
        ]  # fmt: skip
