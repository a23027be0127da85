"""The commands of `llamacffi chat`, one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llamacffi import Context, SamplingParams
from llamacffi.chat import ChatSession
from llamacffi.cli.chat_commands import COMMANDS
from llamacffi.cli.chat_loop import Chat
from tests.cli_chats import THOUGHT


class Desk:
    """A front whose lines are given, and that remembers what it is told."""

    commands = True

    def __init__(self, lines: list[str], interactive: bool = True) -> None:
        self.lines = lines
        self.interactive = interactive
        self.asked_with: list[str] = []
        self.answers: list[str] = []
        self.said: list[str] = []
        self.errors: list[str] = []
        self.thoughts = ""
        self.stop_after: int | None = None

    def read(self, status: str, text: str = "") -> str | None:
        self.asked_with.append(text)
        return self.lines.pop(0) if self.lines else None

    @contextmanager
    def answering(self) -> Iterator[None]:
        self.answers.append("")
        if self.stop_after == 0:
            raise KeyboardInterrupt
        yield

    def show(self, piece: str) -> None:
        self.answers[-1] += piece
        if self.stop_after is not None and len(self.answers[-1]) >= self.stop_after:
            raise KeyboardInterrupt

    def think(self, piece: str) -> None:
        self.thoughts += piece

    def say(self, message: str) -> None:
        self.said.append(message)

    def fail(self, message: str) -> None:
        self.errors.append(message)


Talk = Callable[..., tuple[Desk, Chat]]


@pytest.fixture
def talk(context: Context) -> Iterator[Talk]:
    """A function: lines are said to a new chat, which is then looked at."""
    chats: list[Chat] = []

    def begin(*lines: str, **settings: Any) -> tuple[Desk, Chat]:
        desk = Desk(list(lines))
        sampling = settings.pop("sampling", SamplingParams(temperature=0))
        chat = Chat(context, desk, {"sampling": sampling, "max_tokens": 4, **settings})
        chats.append(chat)
        chat.run()
        return desk, chat

    yield begin
    for chat in chats:
        chat.session.close()


def contents(chat: Chat) -> list[str]:
    return [message["content"] for message in chat.session.messages]


def test_editing(talk: Talk) -> None:
    lines = ["Hi", "How?", "/edit", "Why?", "/edit 1 Hello", "/edit 2 Hm.", "/edit", " "]
    desk, chat = talk(*lines)
    assert desk.errors == []
    assert len(desk.answers) == 4
    assert desk.asked_with[3] == "How?"
    assert desk.asked_with[7] == "Hello"
    assert contents(chat) == ["Hello", "Hm."]
    assert "Nothing was changed." in desk.said


def test_an_edit_whose_answer_fails_changes_nothing(talk: Talk) -> None:
    desk, chat = talk("Hi", "How?", f"/edit 1 {'word ' * 600}", overflow="raise")
    assert len(desk.errors) == 1
    assert contents(chat)[::2] == ["Hi", "How?"]


def test_taking_back(talk: Talk) -> None:
    desk, chat = talk("a", "b", "c", "/rewind", "/rewind 1", system="Be terse.")
    assert contents(chat)[:2] == ["Be terse.", "a"]
    assert len(chat.session.messages) == 3
    assert chat.stats is None
    desk, chat = talk("a", "/clear", "/history", "/rewind 2", "/rewind x", system="Be terse.")
    assert contents(chat) == ["Be terse."]
    assert len(desk.errors) == 2


def test_the_system_message(talk: Talk) -> None:
    desk, chat = talk("/system", "/system Be  kind.", "/system", "/system -")
    assert desk.said[0] == desk.said[3] == "There is no system message."
    assert desk.said[1] == desk.said[2] == "System: Be  kind."
    assert chat.session.messages == []


def test_setting_sampling(talk: Talk) -> None:
    desk, chat = talk(
        "/set", "/set temp 0.5", "/set top-k=7", "/set seed 3", "/set seed none", "/set",
    )  # fmt: skip
    assert desk.errors == []
    assert chat.session.sampling == SamplingParams(temperature=0.5, top_k=7)
    assert desk.said[-1] == "Sampling: temperature=0.5, top_k=7"
    bad = ["/set temp hot", "/set temprature 1", "/set top_p 7", "/set temp", "/set temp 1 2"]
    desk, chat = talk(*bad, sampling=SamplingParams())
    assert len(desk.errors) == len(bad)
    assert "temperature" in desk.errors[1]
    assert chat.session.sampling == SamplingParams()


def test_saving_and_loading(talk: Talk, tmp_path: Path) -> None:
    path, other = tmp_path / "talk", tmp_path / "notes"
    other.write_text("precious")
    desk, chat = talk("Hi", f"/save {path}", f"/save {path}", f"/save {other}", "/save", "/load")
    assert len(desk.errors) == 3
    assert other.read_text() == "precious"
    second, twin = talk("Ho", f"/load {path}", f"/load {other}", f"/load {tmp_path}", "And?")
    assert contents(twin)[:2] == contents(chat)
    assert twin.session.usage.cached_tokens > 0
    assert len(second.errors) == 2
    assert "no saved chat" in second.errors[0]


def test_stopping(talk: Talk) -> None:
    desk, chat = talk()
    desk.stop_after, desk.lines = 1, ["Hi"]
    chat.run()
    assert contents(chat) == ["Hi", desk.answers[0]]
    assert desk.said == ["Stopped."]
    desk.stop_after, desk.lines = 0, ["//slash", "/regenerate"]
    chat.run()
    assert contents(chat) == ["Hi", desk.answers[0]]  # nothing came: as before
    assert desk.asked_with[-2:] == ["//slash", ""]
    desk.stop_after, desk.lines = None, ["And?"]
    chat.run()
    assert len(chat.session.messages) == 4
    assert not chat.failed


def test_thoughts_are_handed_over(talk: Talk, upstream: Path) -> None:
    template = upstream / "models" / "templates" / "Qwen-Qwen3-0.6B.jinja"
    desk, chat = talk(
        "Hi", template=template, max_tokens=None, sampling=SamplingParams(grammar=THOUGHT)
    )
    assert (desk.thoughts, desk.answers) == ("hm ha", ["yes"])
    assert chat.session.messages[-1]["reasoning_content"] == "hm ha"


def test_unknown_commands_and_help(talk: Talk) -> None:
    desk, _ = talk("/", "/regen", "/hlep", "/xyzzy", "/clear all", "/edit 9 x", "/edit")
    assert len(desk.errors) == 7
    assert "/regenerate" in desk.errors[1]
    assert "/help" in desk.errors[2]
    assert all("\n" not in error for error in desk.errors)
    desk, _ = talk("/help", "/template", "/stats", "/history", "/exit", "never read")
    assert desk.errors == []
    assert desk.lines == ["never read"]
    assert all(any(line.startswith(name) for line in desk.said) for name in COMMANDS)
    assert any("chatml" in line for line in desk.said)


def test_every_command_is_in_the_guide() -> None:
    guide = Path(__file__).parent.parent / "docs" / "terminal-chat.md"
    found = re.findall(r"^\| `(/\w+)", guide.read_text(encoding="utf-8"), re.M)
    assert set(found) == set(COMMANDS)


def test_another_history_in_place(talk: Talk) -> None:
    _, chat = talk("a", "b")
    before = chat.session.messages
    chat.replace([before[0], {"role": "assistant", "content": "x"}])
    assert contents(chat) == ["a", "x"]
    chat.replace(before)
    assert chat.session.messages == before


def test_a_session_without_a_listener(context: Context) -> None:
    with ChatSession(context, max_tokens=2) as session:
        assert session.ask("Hi") == session.messages[-1]["content"]
