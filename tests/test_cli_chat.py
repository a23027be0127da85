"""The command `llamacffi chat`: in a pipe, on a pseudo-terminal, and its commands one by one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llamacffi import Context, SamplingParams
from llamacffi.chat import ChatSession
from llamacffi.cli import main
from llamacffi.cli.chat_commands import COMMANDS
from llamacffi.cli.chat_loop import Chat
from tests.conftest import N_THREADS

FEW = ["--temp", "0", "-n", "6", "-c", "512", "--backend", "cpu", "-t", str(N_THREADS)]
ENDLESS = [*FEW, "-n", "0", "--grammar", 'root ::= "word " root']
THOUGHT = 'root ::= "<think>\\nhm ha</think>\\n\\nyes"'


def words(model: Path, *more: object) -> list[str]:
    return [sys.executable, "-m", "llamacffi", "chat", str(model), *map(str, more)]


def piped(
    model: Path, text: str, *more: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(model, *FEW, *more),
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env=os.environ | environment,
    )


# -- in a pipe ------------------------------------------------------------------------------------


def test_each_line_is_a_turn(model_path: Path) -> None:
    text = "Say hello.\n\n/history\n/stats\nAnd again.\n/regenerate\n"
    done = piped(model_path, text, "--system", "Be terse.", TERM="xterm-256color")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    first, second, again = done.stdout.removesuffix("\n").split("\n\n")
    assert first
    assert second == again
    assert "1 system: Be terse.\n2 user: Say hello.\n3 assistant: " + first in done.stderr
    assert re.search(r"answer \d+ tokens; \d+ of 512 tokens used", done.stderr)


def test_one_question(model_path: Path) -> None:
    asked = piped(model_path, "not read", "-p", "/Say hello.")
    whole = piped(model_path, "/Say hello.\n", "--single-turn")
    assert asked.returncode == whole.returncode == 0
    assert asked.stdout == whole.stdout
    assert (asked.stderr, len(asked.stdout.splitlines())) == ("", 1)
    both = piped(model_path, "Two\nlines.", "--single-turn", "-p", "Sum up:", "-n", 1)
    assert both.returncode == 0


def test_an_error_is_one_line_and_the_chat_goes_on(model_path: Path, tmp_path: Path) -> None:
    text = f"/foo\n/load {tmp_path / 'none'}\n{'word ' * 600}\nHi\n//hi\n"
    done = piped(model_path, text, "--overflow", "raise")
    assert done.returncode == 1
    errors = done.stderr.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("Error: ") for line in errors)
    assert "conversation has" in errors[2]
    assert len(done.stdout.split("\n\n")) == 2


def test_prompt_toolkit_is_for_terminals(model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt_toolkit.py").write_text("raise SystemExit('it was imported')")
    done = piped(model_path, "Hi\n/edit\n/edit Ho\n/history", PYTHONPATH=str(tmp_path))
    assert done.stderr.startswith("Error: /edit needs the new text here")
    assert "1 user: Ho\n" in done.stderr


def test_utf_8_whatever_the_locale(model_path: Path) -> None:
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = piped(
        model_path, "Übung 你好\n/history\n", "--grammar", r'root ::= "n\u00e9"', **settings
    )
    assert (done.returncode, done.stdout) == (0, "né\n")
    assert "user: Übung 你好" in done.stderr


def test_a_reader_that_goes_away(model_path: Path) -> None:
    command = words(model_path, *ENDLESS, "-p", "Go.")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        errors = child.stderr.read().decode()
    assert "Traceback" not in errors


def test_ctrl_c_in_a_pipe(model_path: Path) -> None:
    command = words(model_path, *ENDLESS, "-p", "Go.")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.read(5) == b"word "
        child.send_signal(signal.SIGINT)
        errors = child.stderr.read().decode()
        assert child.wait(60) == 130
    assert errors == ""


def test_ctrl_c_while_the_model_loads(monkeypatch: pytest.MonkeyPatch, model_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llamacffi.model.Model", interrupted)
    result = CliRunner().invoke(main, ["chat", str(model_path), "-p", "x"])
    assert (result.exit_code, result.output) == (130, "")


def test_saved_settings_give_way_to_options(model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "talk"
    begun = piped(model_path, f"Hi\n/set seed 5\n/save {path}\n", "--system", "Be terse.")
    assert begun.returncode == 0, begun.stderr
    again = [*words(model_path, "--load", path, "-t", N_THREADS, "-c", 512)]
    text = "/set\n/history\n"
    kept = subprocess.run(again, input=text, capture_output=True, text=True, timeout=120)
    assert "temperature=0.0, seed=5" in kept.stderr, kept.stderr
    assert "system: Be terse." in kept.stderr
    changed = [*again, "--temp", "0.5", "--system", "Be kind."]
    done = subprocess.run(changed, input=text, capture_output=True, text=True, timeout=120)
    assert "temperature=0.5\n" in done.stderr
    assert "1 system: Be kind.\n2 user: Hi" in done.stderr


def test_mistakes_in_the_arguments(model_path: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_text("junk")
    for options, code, message in (
        (["--template", "nope"], 1, "No template is called 'nope'"),
        (["--load", junk], 1, "no saved chat"),
        (["--load", tmp_path / "none"], 2, "does not exist"),
        (["--overflow", "burst"], 2, "burst"),
        (["--reasoning-budget", -2], 2, "-2"),
        (["--temp", 1, "--top-p", 7], 1, "top_p=7"),
    ):
        arguments = ["chat", model_path, *FEW, "-p", "Hi", *options]
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert (result.exit_code, message in result.stderr) == (code, True), result.output


def test_thoughts_are_no_answer(model_path: Path, upstream: Path) -> None:
    template = upstream / "models" / "templates" / "Qwen-Qwen3-0.6B.jinja"
    options = ["--template", template, "-n", "0", "--grammar", THOUGHT]
    assert piped(model_path, "", *options, "-p", "Hi").stdout == "yes\n"
    text = template.read_text(encoding="utf-8")
    bare = ["--template", text, "--no-thinking", "--grammar", 'root ::= "no"', "-p", "Hi"]
    assert piped(model_path, "", *bare).stdout == "no\n"


# -- the commands, one by one ---------------------------------------------------------------------


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


# -- on a terminal --------------------------------------------------------------------------------

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
