"""Where a chat takes place: in a pipe, or on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

import click

from llamacffi.cli.chat_loop import Front

__all__ = ["Pipe", "choose_front"]


def choose_front(prompt: str | None = None, single_turn: bool = False) -> Front:
    """The front for where the program runs.

    Args:
        prompt: The only question.
        single_turn: All of standard input is one question, behind `prompt` if there is one.
    """
    if prompt is not None or single_turn:
        return Pipe(prompt, single_turn)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return Pipe()
    from llamacffi.cli.chat_terminal import Terminal

    if os.environ.get("TERM", "") not in ("", "dumb", "unknown"):
        try:
            from llamacffi.cli.chat_prompt import PromptTerminal
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "prompt_toolkit":
                raise
            click.echo(
                "For a history, completion and more keys: pip install 'llamacffi[chat]'.", err=True
            )
        else:
            return PromptTerminal()
    return Terminal()


class Pipe:
    """Questions from standard input, answers to standard output, the rest to standard error.

    Args:
        prompt: The only question; None for each line of standard input.
        single_turn: All of standard input is one question.
    """

    interactive = False

    def __init__(self, prompt: str | None = None, single_turn: bool = False) -> None:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # whatever the locale says: models speak UTF-8
                stream.reconfigure(encoding="utf-8", errors="replace")
        self.commands = prompt is None and not single_turn
        self._prompt = prompt
        self._single_turn = single_turn
        self._n_answers = 0
        self._began = False

    def read(self, status: str, text: str = "") -> str | None:  # noqa: ARG002 # the protocol's
        """The next line, or once the only question."""
        if self.commands:
            line = sys.stdin.readline()
            return line.rstrip("\r\n") if line else None
        prompt, self._prompt = self._prompt, None
        if self._single_turn:
            self._single_turn = False
            read = sys.stdin.read().strip()
            return read if prompt is None else f"{prompt}\n\n{read}"
        return prompt

    @contextmanager
    def answering(self) -> Iterator[None]:
        """End the answer's last line; a failure shows nothing."""
        self._began = False
        try:
            yield
        except BaseException:
            if self._began:
                click.echo()
            raise
        self._begin()
        click.echo()

    def show(self, piece: str) -> None:
        """Print it as it is."""
        self._begin()
        click.echo(piece, nl=False)

    def think(self, piece: str) -> None:
        """Nothing: thoughts are not the answer."""

    def say(self, message: str) -> None:
        """To standard error."""
        click.echo(message, err=True)

    def fail(self, message: str) -> None:
        """To standard error."""
        click.echo(f"Error: {message}", err=True)

    def _begin(self) -> None:
        if not self._began:
            self._began = True
            if self._n_answers:
                click.echo()
            self._n_answers += 1
