"""`llamacffi chat` in a pipe: a question per line, errors of one line, settings."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from llamacffi.cli import main
from tests.cli_chats import ENDLESS, FEW, THOUGHT, words
from tests.conftest import N_THREADS


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

    import llamacffi.chat  # noqa: F401 - it must not take the stand-in for the class, and keep it

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
