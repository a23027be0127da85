"""`llamacffi chat` on a pseudo-terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli_chats import ENDLESS, FEW, THOUGHT, words

if sys.platform != "win32":
    from tests.pseudo_terminal import PseudoTerminal

Open = Callable[..., "PseudoTerminal"]


@pytest.fixture
def terminal(model_path: Path, tmp_path: Path) -> Iterator[Open]:
    """A function that starts the chat on a terminal."""
    if sys.platform == "win32":
        pytest.skip("there are no pseudo-terminals")
    opened: list[PseudoTerminal] = []

    def start(*options: object, **environment: str) -> PseudoTerminal:
        settings = {
            "TERM": "xterm-256color",
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "HOME": str(tmp_path),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
        }
        given = options or FEW
        opened.append(PseudoTerminal(words(model_path, *given), settings | environment))
        return opened[-1]

    yield start
    for one in opened:
        one.__exit__()


def leave(terminal: PseudoTerminal) -> None:
    terminal.type("\x04")
    assert terminal.wait_for_end() == 0
    assert terminal.echoes()
    assert "Traceback" not in terminal.all_text


def history(terminal: PseudoTerminal) -> str:
    """What `/history` shows."""
    terminal.type("/history\r")
    terminal.wait_for("\n1 ")
    return "1 " + terminal.wait_for_prompt().replace("\r\n", "\n")


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal: Open) -> None:
    chat = terminal(*ENDLESS)
    chat.wait_for_prompt()
    for question in ("Tell me.", "And more?"):
        chat.type(f"{question}\r")
        chat.wait_for("word word ")
        assert not chat.echoes()
        chat.type("\x03")
        chat.wait_for("Stopped.")
        chat.wait_for_prompt()
        chat.wait_for("tokens/s, first after")  # the status line
    shown = history(chat)
    assert re.search(r"1 user: Tell me\.\n2 assistant: (word )+", shown)
    assert re.search(r"3 user: And more\?\n4 assistant: (word )+", shown)
    chat.type("\x03")
    chat.wait_for("Ctrl-D or /exit leaves")
    chat.wait_for_prompt()
    chat.type("dropped\x03")
    leave(chat)


def test_lines_history_and_edit(terminal: Open) -> None:
    chat = terminal()
    chat.wait_for_prompt()
    for keys in ("one\\\rtwo\r", "three\x1b\rfour\r", "\x1b[200~five\nsix\x1b[201~\r"):
        chat.type(keys)
        chat.wait_for_prompt()
    shown = history(chat)
    for text in ("user: one\ntwo\n", "user: three\nfour\n", "user: five\nsix\n"):
        assert text in shown
    chat.resize(10, 40)
    chat.type("/edit 5\r")
    chat.wait_for_prompt()
    chat.type(" seven\r")
    chat.wait_for_prompt()
    assert "5 user: five\nsix seven\n6 assistant:" in history(chat)
    leave(chat)
    again = terminal()
    again.wait_for_prompt()
    again.type("\x1b[A\r")  # /history
    again.wait_for("The history is empty.")
    again.wait_for_prompt()
    again.type("\x1b[A\x1b[A\r")  # what the edit was changed to
    again.wait_for_prompt()
    assert "1 user: five\nsix seven\n" in history(again)
    leave(again)


def test_save_load_and_completion(terminal: Open, tmp_path: Path) -> None:
    chat = terminal()
    chat.wait_for_prompt()
    for line in ("Hi", f"/save {tmp_path / 'talk'}", "/clear"):
        chat.type(f"{line}\r")
        chat.wait_for_prompt()
    chat.type("/hist")
    chat.wait_for("Show the messages")  # the menu
    chat.type("\t\r")
    chat.wait_for("The history is empty.")
    chat.wait_for_prompt()
    chat.type(f"/load {tmp_path / 'talk'}\r")
    chat.wait_for("Loaded 2 messages")
    chat.wait_for_prompt()
    assert history(chat).startswith("1 user: Hi\n2 assistant: ")
    chat.type("/exit\r")
    assert chat.wait_for_end() == 0


def test_text_cannot_command_the_terminal(terminal: Open) -> None:
    grammar = r'root ::= "a\x1b[31mb\x07c"'
    chat = terminal(*FEW, "-n", "0", "--grammar", grammar)
    chat.wait_for_prompt()
    chat.type("Hi\r")
    chat.wait_for("\ufffd[31mb\ufffdc")
    chat.wait_for_prompt()
    leave(chat)


def test_thoughts_are_dimmed(terminal: Open, upstream: Path) -> None:
    template = upstream / "models" / "templates" / "Qwen-Qwen3-0.6B.jinja"
    chat = terminal(*FEW, "-n", "0", "--template", template, "--grammar", THOUGHT)
    chat.wait_for_prompt()
    chat.type("Hi\r")
    chat.wait_for("\x1b[2mhm ha\x1b[0m\r\n\r\nyes\r\n")
    chat.wait_for_prompt()
    leave(chat)


@pytest.mark.parametrize("hidden", [False, True], ids=["dumb", "not installed"])
def test_without_prompt_toolkit(terminal: Open, tmp_path: Path, hidden: bool) -> None:
    environment = {"TERM": "dumb"}
    if hidden:
        missing = "raise ModuleNotFoundError('no', name='prompt_toolkit')"
        (tmp_path / "prompt_toolkit.py").write_text(missing)
        environment = {"PYTHONPATH": str(tmp_path)}
    chat = terminal(*ENDLESS, **environment)
    if hidden:
        chat.wait_for("pip install 'llamacffi[chat]'")
    chat.wait_for("> ")
    chat.type("one\\\r")
    chat.wait_for(". ")
    chat.type("two\r")
    chat.wait_for("word word ")
    chat.type("\x03")
    chat.wait_for("Stopped.")
    chat.wait_for("> ")
    chat.press_for("\x03", "leaves the chat.")
    chat.type("/history\r")
    chat.wait_for("1 user: one\r\ntwo")
    chat.wait_for("> ")
    leave(chat)
