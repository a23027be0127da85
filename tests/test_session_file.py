"""Saved chats: all of a session comes back, and no file can do harm."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacffi import ChatSession, Context, Model, SamplingParams
from llamacffi.chat.session_file import MAGIC, PREFIX, _digest, write_session
from llamacffi.errors import LlamaCffiError, ParameterError, StateError
from llamacffi.templates import JinjaTemplate, Template
from tests.sessions import GREEDY, session_on, tiny_model

OPTIONS: dict[str, Any] = {"n_ctx": 512, "n_threads": 1}


@pytest.fixture(scope="module")
def on_tiny(tiny_falcon: Model) -> Iterator[Context]:
    with tiny_falcon.context(**OPTIONS) as made:
        yield made


@pytest.fixture(scope="module")
def saved(on_tiny: Context, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a session with a short memory."""
    path = tmp_path_factory.mktemp("saved") / "talk.session"
    with session_on(on_tiny, system="s", max_tokens=3) as session:
        session.ask("hello")
        session.save(path)
    return path.read_bytes()


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = PREFIX.unpack(data[: PREFIX.size])[2]
    end = PREFIX.size + length
    return json.loads(data[PREFIX.size : end]), data[end:]


def packed(header: Any, rest: bytes = b"", version: int = 1) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return PREFIX.pack(MAGIC, version, len(text), _digest(text)) + text + rest


def load(path: Path, data: bytes, context: Context, **settings: Any) -> ChatSession:
    path.write_bytes(data)
    return ChatSession.load(path, context, **settings)


@pytest.mark.parametrize("memory", [True, False])
def test_there_and_back(model: Model, context: Context, tmp_path: Path, memory: bool) -> None:
    path = tmp_path / "talk.session"
    session = session_on(context, system="Answer in one word.", overflow="shift")
    session.ask("What is the capital of France?")
    session.save(path, memory=memory)
    expected = session.ask("And of Spain?")
    with model.context(n_ctx=512, n_threads=context.n_threads) as other:
        loaded = ChatSession.load(path, other)
        assert loaded.messages == session.messages[:-2]
        assert loaded.sampling == session.sampling
        assert loaded.ask("And of Spain?") == expected
        assert (loaded.usage.cached_tokens > 30) is memory
        assert loaded._overflow == "shift"
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600


def test_every_setting_comes_back(on_tiny: Context, tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
    given: dict[str, Any] = {
        "sampling": SamplingParams(temperature=0.5, logit_bias={3: -float("inf"), 4: 1.5}, seed=9),
        "template": "chatml",
        "tools": [tool],
        "overflow": "raise",
        "max_tokens": 7,
        "max_tool_rounds": 3,
        "enable_thinking": False,
        "reasoning_budget": 4,
        "template_variables": {"x": [1, None, "ü"]},
    }
    session = ChatSession(on_tiny, messages=[{"role": "user", "content": "\ud800 ü"}], **given)
    session.save(tmp_path / "a")
    loaded = ChatSession.load(tmp_path / "a", on_tiny)
    assert loaded.sampling == given["sampling"]
    assert loaded.template is session.template
    assert loaded.messages == session.messages
    names = ("_max_tokens", "_max_tool_rounds", "_overflow", "_enable_thinking",
             "_reasoning_budget", "_variables")  # fmt: skip
    assert [getattr(loaded, n) for n in names] == [getattr(session, n) for n in names]
    assert loaded._tools.described == session._tools.described
    assert ChatSession.load(tmp_path / "a", on_tiny, max_tokens=9)._max_tokens == 9
    loaded = ChatSession.load(tmp_path / "a", on_tiny, system="s")
    assert [loaded.system, loaded.messages[1:]] == ["s", session.messages]
    loaded = ChatSession.load(tmp_path / "a", on_tiny, system="s", messages=[])
    assert [loaded.system, len(loaded.messages)] == ["s", 1]
    with pytest.raises(TypeError):
        ChatSession.load(tmp_path / "a", on_tiny, nonsense=1)


def test_what_no_file_can_hold_must_be_given_again(on_tiny: Context, tmp_path: Path) -> None:
    class Own(Template):
        name = "chatml"  # not the registered one

        def render(self, messages: Any, tools: Any = (), options: Any = None) -> Any:
            raise NotImplementedError

    def f(x: int) -> int:
        return x

    path = tmp_path / "a"
    given: dict[str, Any] = {
        "tools": [f],
        "overflow": lambda messages: "",
        "history_transform": lambda messages: messages,
        "output_transform": lambda pieces: pieces,
        "template": Own(),
    }
    for name, value in given.items():
        session_on(on_tiny, **{name: value}).save(path)
        with pytest.raises(ParameterError, match=name):
            ChatSession.load(path, on_tiny)
        ChatSession.load(path, on_tiny, **{name: value}).close()
    for sampling in (SamplingParams(processors=[f]), SamplingParams(grammar="root ::= [a]")):
        path.write_bytes(b"old")
        with pytest.raises(ParameterError, match="which no file can hold"):
            session_on(on_tiny, sampling=sampling).save(path)
        with pytest.raises(ParameterError, match="written as JSON"):
            session_on(on_tiny, template_variables={"x": f}).save(path)
        assert path.read_bytes() == b"old"


def test_templates(on_tiny: Context, tmp_path: Path) -> None:
    text = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
    file = tmp_path / "mine.jinja"
    file.write_text(text)
    for choice in (text, file, str(file), JinjaTemplate("mine", text)):
        session_on(on_tiny, template=choice).save(tmp_path / "a")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "read_text", None)  # the file is not needed any more
            loaded = ChatSession.load(tmp_path / "a", on_tiny)
        prompt = loaded.template.render([{"role": "user", "content": "x"}])
        assert prompt.text == "<x>"


def test_memory_that_does_not_fit_is_computed_again(
    tiny_falcon: Model, on_tiny: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a"
    session = session_on(on_tiny)
    session.ask("hello " * 30)
    session.save(path)
    for options in ({"n_ctx": 256, "n_seq_max": 2}, {"type_k": "f32"}):
        caplog.clear()
        with (
            caplog.at_level(logging.WARNING, "llamacffi.chat"),
            tiny_falcon.context(**{**OPTIONS, **options}) as other,
        ):
            loaded = ChatSession.load(path, other)
            assert loaded.messages == session.messages
            loaded.ask("and?")
            assert loaded.usage.cached_tokens == 0
        assert "computed again" in caplog.text


def test_another_model_is_refused(tmp_path: Path, saved: bytes) -> None:
    (tmp_path / "a").write_bytes(saved)
    refused = pytest.raises(StateError, match=r"falcon\.gguf.*falcon-1\.gguf")
    with tiny_model(tmp_path, seed=1) as other, refused:
        ChatSession.load(tmp_path / "a", other)


def test_an_old_file_stays_until_the_end(
    on_tiny: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_on(on_tiny)
    session.ask("hello")
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        session.save(path)
    assert [path.read_bytes(), list(tmp_path.iterdir())] == [b"old", [path]]
    for bad in (tmp_path / "nosuch" / "a", tmp_path):
        with pytest.raises(OSError):
            session.save(bad)
        with pytest.raises(OSError):
            ChatSession.load(bad, on_tiny)


# -- hostile files --------------------------------------------------------------------------------


def test_damaged(saved: bytes, on_tiny: Context, tmp_path: Path) -> None:
    path, dice = tmp_path / "a", random.Random(5)
    header, rest = parts(saved)
    bad = [b"", b"x", MAGIC, saved[:-1], saved + b"x", saved[: PREFIX.size]]
    bad += [saved[: dice.randrange(len(saved))] for _ in range(40)]
    for _ in range(60):
        place = dice.choice([dice.randrange(len(saved)), dice.randrange(400)])
        flipped = bytearray(saved)
        flipped[place] ^= 1 << dice.randrange(8)
        bad.append(bytes(flipped))
    bad += [packed(header, rest, version=2), packed(header, rest[:-1]), packed(b"\xff")]
    bad += [packed(text.encode()) for text in ("[]", "3", "{}", "", "[" * 10**5, '{"a":' * 10**5)]
    for data in bad:
        with pytest.raises(StateError):
            load(path, data, on_tiny).close()
            # Cut exactly behind the header it is a session without its memory.
            assert data == packed(header), len(data)
            raise StateError


WRONG: list[Any] = [
    None, -1, 2**70, 0.5, True, "x", "../x.jinja", [], [[]], {}, {"x": 1}, [None], [3],
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    value = inner = copy.deepcopy(value)
    for key in path[:-1]:
        inner = inner[key]
    if by is places:
        del inner[path[-1]]
    else:
        inner[path[-1]] = by
    return value


def test_wrong_types_at_every_place(saved: bytes, on_tiny: Context, tmp_path: Path) -> None:
    header, rest = parts(saved)
    path = tmp_path / "a"
    for place in places(header):
        for by in [*WRONG, places]:
            try:
                session = load(path, packed(replaced(header, place, by), rest), on_tiny)
            except (StateError, ParameterError):
                continue
            try:
                session.ask("x", max_tokens=1)
            except LlamaCffiError:
                pass
            session.close()


def test_more_settings_than_there_are(saved: bytes, on_tiny: Context, tmp_path: Path) -> None:
    header, _ = parts(saved)
    for name, value in (("n_ctx", 10**9), ("model", "x"), ("tools", [])):
        header["settings"][name] = value
        loaded = load(tmp_path / "a", packed(header), on_tiny)
        assert loaded.messages == header["messages"]
    header["window"]["more"] = 1
    with pytest.raises(StateError):
        load(tmp_path / "a", packed(header), on_tiny)


def test_no_file_is_opened_by_name(saved: bytes, on_tiny: Context, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jinja"
    secret.write_text("{% if true %}secret{% endif %}")
    header, _ = parts(saved)
    with pytest.raises(StateError):
        load(tmp_path / "a", packed({**header, "template": str(secret)}), on_tiny)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    made = tmp_path_factory.mktemp("fuzz")
    return lambda: made / "a"


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_header(
    data: st.DataObject, saved: bytes, on_tiny: Context, folder: Callable[[], Path]
) -> None:
    header, rest = parts(saved)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(list(places(header))))
        header = replaced(header, place, data.draw(json_values))
    try:
        load(folder(), packed(header, rest), on_tiny, sampling=GREEDY).close()
    except (StateError, ParameterError):
        pass


def test_a_state_that_is_another(saved: bytes, on_tiny: Context, tmp_path: Path) -> None:
    """One that belongs here, but not to this history: the history is the truth."""
    header, _ = parts(saved)
    other = session_on(on_tiny)
    other.ask("something else")
    state = on_tiny.capture_state(0)
    write_session(tmp_path / "a", header, state)
    loaded = ChatSession.load(tmp_path / "a", on_tiny)
    loaded.ask("x")
    assert loaded.usage.cached_tokens < 15
    whole = on_tiny.capture_state()
    write_session(tmp_path / "a", header, whole)
    ChatSession.load(tmp_path / "a", on_tiny).ask("x")
