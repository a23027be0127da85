"""A chat on a terminal, with what Python has by itself."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper

__all__ = ["Terminal"]

PROMPT, MORE = "> ", ". "
DIM, PLAIN = "\x1b[2m", "\x1b[0m"
# A model's text must not move the cursor, or do whatever else this terminal would obey.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Terminal:
    """Questions by `input`, where a backslash at the end of a line goes on with the next one."""

    interactive = True
    commands = True

    def __init__(self) -> None:
        with suppress(ImportError):
            import readline  # noqa: F401 # lets `input` edit the line

        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        self._styled = os.environ.get("TERM", "") not in ("", "dumb", "unknown")
        self._thinking = False
        self._at_start = True

    def read(self, status: str, text: str = "") -> str | None:  # noqa: ARG002 # the protocol's
        """Ask for a line."""
        lines: list[str] = []
        try:
            with _prefilled(text.replace("\n", " ")):
                lines.append(input(PROMPT))
            while lines[-1].endswith("\\"):
                lines[-1] = lines[-1][:-1]
                lines.append(input(MORE))
        except (EOFError, KeyboardInterrupt) as end:
            self._write("\n")
            if isinstance(end, KeyboardInterrupt):
                raise
            return None
        return "\n".join(lines)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """What is typed meanwhile is not shown among the answer, and read afterwards."""
        self._at_start = True
        try:
            with _no_echo():
                yield
        finally:
            self._end_thought()
            if not self._at_start:
                self._write("\n")

    def show(self, piece: str) -> None:
        """Write it at once."""
        if self._thinking:
            self._end_thought()
            self._write("\n\n")
        self._write(_harmless(piece))

    def think(self, piece: str) -> None:
        """Write it dimmed."""
        if not self._thinking:
            self._thinking = True
            self._write(DIM if self._styled else "(")
        self._write(_harmless(piece))

    def say(self, message: str) -> None:
        """Write a line, dimmed."""
        text = _harmless(message)
        self._write(f"{DIM}{text}{PLAIN}\n" if self._styled else f"{text}\n")

    def fail(self, message: str) -> None:
        """Write a line."""
        self._write(f"Error: {_harmless(message)}\n")

    def _end_thought(self) -> None:
        if self._thinking:
            self._thinking = False
            self._write(PLAIN if self._styled else ")")

    def _write(self, text: str) -> None:
        if text:
            self._at_start = text.endswith("\n")
            sys.stdout.write(text)
            sys.stdout.flush()


def _harmless(text: str) -> str:
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


@contextmanager
def _prefilled(text: str) -> Iterator[None]:
    """Let the next `input` begin with a text, where readline is there to do so."""
    try:
        import readline
    except ImportError:
        yield
        return
    readline.set_startup_hook((lambda: readline.insert_text(text)) if text else None)
    try:
        yield
    finally:
        readline.set_startup_hook(None)


@contextmanager
def _no_echo() -> Iterator[None]:
    """What is typed is not echoed, where there is a POSIX terminal."""
    try:
        import termios
    except ImportError:
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = [*before]
    quiet[3] = before[3] & ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
