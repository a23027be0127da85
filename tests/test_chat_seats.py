"""Several chats on one context: each keeps its memory, whoever uses the context in between."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llamacffi import ChatSession, Context, Model
from llamacffi.chat import seats as seats_module
from llamacffi.chat.seats import seats_of
from llamacffi.errors import CancelledError, UnsupportedError
from tests.conftest import N_THREADS
from tests.sessions import scripted, session_on, tiny_model

LAYOUTS: list[dict[str, Any]] = [
    {"n_seq_max": 1},
    {"n_seq_max": 2},
    {"n_seq_max": 2, "kv_unified": True},
]
QUESTIONS = ["What is the capital of France?", "And of Spain?", "Which is larger?"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Model]]:
    folder = tmp_path_factory.mktemp("seats")
    names = ("falcon", "gemma3", "mamba", "jamba", "t5", "bert")
    opened = [tiny_model(folder, name) for name in names]
    yield {name: manager.__enter__() for name, manager in zip(names, opened, strict=True)}
    for manager in opened:
        manager.__exit__(None, None, None)


@pytest.fixture
def tiny(models: dict[str, Model]) -> Model:
    return models["falcon"]


@pytest.fixture
def make(tiny: Model) -> Iterator[Callable[..., Context]]:
    made: list[Context] = []

    def context(model: Model = tiny, n_ctx: int = 1024, **options: Any) -> Context:
        made.append(model.context(n_ctx=n_ctx, n_threads=1, **options))
        return made[-1]

    yield context
    for one in made:
        one.close()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_taking_turns_computes_nothing_twice(model: Model, layout: dict[str, Any]) -> None:
    n_seq_max = layout["n_seq_max"]
    with model.context(n_ctx=512 * n_seq_max, n_threads=N_THREADS, **layout) as context:
        alone = session_on(context)
        expected = [alone.ask(question) for question in QUESTIONS]
        counts = [alone.usage.cached_tokens, alone.usage.prompt_tokens]
        alone.close()
        sessions = [session_on(context) for _ in range(3)]
        for place, question in enumerate(QUESTIONS):
            assert {one.ask(question) for one in sessions} == {expected[place]}
        for one in sessions:
            assert [one.usage.cached_tokens, one.usage.prompt_tokens] == counts


@pytest.mark.parametrize("architecture", ["falcon", "gemma3", "mamba", "jamba"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_forks_remember(
    models: dict[str, Model],
    make: Callable[..., Context],
    architecture: str,
    layout: dict[str, Any],
) -> None:
    model = models[architecture]
    context = make(model, **layout)
    sampling = scripted(model.vocab, *["hello again"] * 20)
    first = session_on(context, sampling=sampling, max_tokens=50)
    first.ask("the time " * 10)
    n_known = first.usage.total_tokens
    twins = [first.fork() for _ in range(3)]
    for one in [first, *twins, *twins]:
        one.ask("and?")
        assert one.usage.cached_tokens >= n_known
    assert first.messages == twins[0].messages[: len(first.messages)]


def test_forks_share_cells_where_they_can(tiny: Model, make: Callable[..., Context]) -> None:
    context = make(n_seq_max=4, kv_unified=True)
    first = session_on(context)
    first.ask("x" * 100)
    twin = first.fork()
    held = [context.memory.tokens(i) for i in range(2)]
    assert held[0] == held[1] != []
    # Who shifts moves the cells of others, too: those are copied.
    second = session_on(context, overflow="shift")
    second.ask("y" * 100)
    copy = second.fork()
    assert seats_of(context).sequence_of(copy) is None
    assert seats_of(context).sequence_of(twin) == 1


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("architecture", ["falcon", "gemma3", "mamba", "jamba"])
def test_streams_read_alternately(
    models: dict[str, Model],
    make: Callable[..., Context],
    architecture: str,
    layout: dict[str, Any],
) -> None:
    context = make(models[architecture], **layout)
    alone = [session_on(context, max_tokens=12) for _ in range(3)]
    texts = ["a", "hello the time", "once upon"]
    expected = [one.ask(text) for one, text in zip(alone, texts, strict=True)]
    sessions = [session_on(context, max_tokens=12) for _ in range(3)]
    streams = [one.stream(text) for one, text in zip(sessions, texts, strict=True)]
    found = ["", "", ""]
    running = [0, 1, 2]
    while running:
        for place in list(running):
            piece = next(streams[place], None)
            if piece is None:
                running.remove(place)
            found[place] += piece or ""
    assert found == expected
    assert [one.messages for one in sessions] == [one.messages for one in alone]


def test_an_encoder_reads_for_one_only(
    models: dict[str, Model], make: Callable[..., Context]
) -> None:
    context = make(models["t5"], n_seq_max=2, kv_unified=True)
    one, two = session_on(context), session_on(context)
    expected = one.ask("hello")
    one.rewind()
    stream = one.stream("hello")
    next(stream)
    two.ask("once upon")
    with pytest.raises(CancelledError, match="encoder"):
        list(stream)
    one.rewind()
    assert one.ask("hello") == expected
    with pytest.raises(UnsupportedError):
        session_on(make(models["bert"])).ask("hello")


def test_the_memory_is_changed_under_a_stream(tiny: Model, make: Callable[..., Context]) -> None:
    context = make()
    expected = session_on(context, max_tokens=12).ask("hello")
    for meddle in (
        context.memory.clear,
        lambda: context.memory.remove(0, 5),
        lambda: context.decode_tokens([1, 2, 3]),
    ):
        session = session_on(context, max_tokens=12)
        found = ""
        for piece in session.stream("hello"):
            found += piece
            meddle()
        assert found == expected


def test_a_buffer_that_all_share_runs_full(tiny: Model, make: Callable[..., Context]) -> None:
    context = make(n_ctx=256, n_seq_max=3, kv_unified=True)
    long = "hello the time " * 12
    sessions = [
        session_on(context, sampling=scripted(tiny.vocab, *[long] * 9), max_tokens=None)
        for _ in range(3)
    ]
    streams = [one.stream("go on") for one in sessions]
    answers = ["".join(pieces) for pieces in zip(*streams, strict=True)]
    assert "".join(answers) == "".join(c * 3 for c in _pieces(tiny, long))
    assert all(one.messages[-1]["content"] == long for one in sessions)


def _pieces(model: Model, text: str) -> list[str]:
    vocab = model.vocab
    tokens = vocab.tokenize(text, add_special=False)
    return [vocab.token_to_piece(token).decode() for token in tokens]


def test_forgotten_sessions_free_their_sequence(make: Callable[..., Context]) -> None:
    context = make(n_seq_max=2)
    kept = session_on(context)
    kept.ask("a")
    for _ in range(5):
        other = session_on(context)
        other.ask("b")
        del other
        gc.collect()
    assert seats_of(context).sequence_of(kept) == 0  # nobody had to make room
    kept.ask("c")
    assert kept.usage.cached_tokens > 0
    assert len(seats_of(context).members) == 1


def test_seats_do_not_keep_a_context(tiny: Model) -> None:
    context = tiny.context(n_ctx=256, n_threads=1)
    session = session_on(context)
    session.ask("a")
    gone = weakref.ref(context)
    del context, session
    gc.collect()
    assert gone() is None


def test_closing_gives_the_sequence_back(make: Callable[..., Context]) -> None:
    context = make()
    with session_on(context) as session:
        session.ask("a")
        assert context.memory.position_max() > 0
    assert context.memory.position_max() == -1
    assert not context.closed
    assert session.messages


def test_the_last_session_closes_a_context_of_its_own(tiny: Model) -> None:
    first = ChatSession(tiny, n_ctx=256, n_threads=1)
    twin = first.fork()  # has remembered nothing yet
    guest = session_on(first.context)
    first.close()
    assert not twin.context.closed
    guest.close()
    twin.ask("a", max_tokens=2)
    twin.close()
    assert twin.context.closed
    twin.close()


def test_waiting_states_are_limited(
    make: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make(n_seq_max=1)
    first = session_on(context)
    first.ask("hello " * 20)
    size = context.capture_state(0).native_size
    monkeypatch.setattr(seats_module, "KEPT_BYTES_MAX", 2 * size + size // 2)
    seats = seats_of(context)
    twins = [first.fork() for _ in range(3)]
    session_on(context).ask("away")
    assert sum(seats.state_of(one) is not None for one in [first, *twins]) >= 1
    assert sum({id(s): s.native_size for s in seats._kept.values()}.values()) <= 2.5 * size
    for one in [first, *twins]:
        one.ask("and?")  # computed again or not, it works


def test_another_adapter_makes_what_waits_useless(tiny: Model, make: Callable[..., Context],
                                                  tmp_path: Path) -> None:  # fmt: skip
    context = make(n_seq_max=1)
    first, second = session_on(context), session_on(context)
    first.ask("hello")
    second.ask("hello")
    kept = seats_of(context)._kept
    kept[first] = type(kept[first])(
        **{**vars(kept[first]), "conditions": {**kept[first].conditions, "adapters": [["x", 1.0]]}}
    )
    first.ask("and?")
    assert first.usage.cached_tokens == 0


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_threads(model: Model, layout: dict[str, Any]) -> None:
    options = {**layout, "n_ctx": 256 * layout["n_seq_max"], "n_threads": N_THREADS}
    with model.context(**options) as context:

        def talk(first: str) -> list[str]:
            session = session_on(context, max_tokens=5)
            return [session.ask(question) for question in (first, QUESTIONS[1])]

        firsts = [QUESTIONS[0], "Name the largest ocean."]
        expected = {first: talk(first) for first in firsts}
        found: dict[str, list[str]] = {}
        threads = [
            threading.Thread(target=lambda first=first: found.update({first: talk(first)}))
            for first in firsts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == expected
