"""A program on a pseudo-terminal: what it shows is waited for, with a limit, and keys are typed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence

__all__ = ["PseudoTerminal"]

TIMEOUT_SECONDS = 90.0
N_PRESSES = 90
# Ctrl-C reaches the session whose terminal it is. (preexec_fn warns where there are threads.)
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])")
CURSOR_REQUEST = "\x1b[6n"  # where is the cursor? prompt_toolkit needs to know for its status line
READS = "\x1b[?2004h"  # what prompt_toolkit writes when it starts to read


class PseudoTerminal:
    """Start a program whose standard streams are a terminal of its own.

    Args:
        command: The program and its arguments.
        environment: What is added to this process's.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.resize(24, 100)
        self._text = ""
        self.all_text = ""

        self._slave = slave  # stays open: else reading fails before the child has begun
        self._child = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, **environment},
            start_new_session=True,
        )

    def __enter__(self) -> PseudoTerminal:
        return self

    def __exit__(self, *exception: object) -> None:
        self._child.kill()
        self._child.wait()
        os.close(self._slave)
        os.close(self._master)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self._slave)[3] & termios.ECHO)

    def wait_for(self, text: str, seconds: float = TIMEOUT_SECONDS) -> str:
        """Read until a text comes; what came before it.

        Escape sequences are left out, unless the text has one.
        """
        deadline = time.monotonic() + seconds
        gap = "" if "\x1b" in text else f"(?:{ESCAPE.pattern})*"
        wanted = re.compile(gap.join(map(re.escape, text)))
        while not (found := wanted.search(self._text)):
            if not self._read(deadline):
                raise AssertionError(f"{text!r} did not come; this did: {self._text[-2000:]!r}")
        before, self._text = self._text[: found.start()], self._text[found.end() :]
        return ESCAPE.sub("", before)

    def press_for(self, keys: str, text: str) -> None:
        """Type keys until a text comes.

        Python's `input` does not notice a Ctrl-C between the output of its prompt and the wait for
        a key (`readline_until_enter_or_signal`); nobody types so fast, but a test does.
        """
        for left in range(N_PRESSES - 1, -1, -1):
            self.type(keys)
            try:
                self.wait_for(text, TIMEOUT_SECONDS / N_PRESSES)
                return
            except AssertionError:
                if not left:
                    raise

    def wait_for_prompt(self) -> str:
        return self.wait_for(READS)

    def wait_for_end(self) -> int:
        """Read until the program ends; its exit status."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self._child.poll() is None:
            assert time.monotonic() < deadline, f"it goes on: {self._text[-2000:]!r}"
            self._read(time.monotonic() + 0.05)
        while self._read(time.monotonic()):
            pass
        return self._child.returncode

    def _read(self, deadline: float) -> bool:
        left = max(0.0, deadline - time.monotonic())
        if not select.select([self._master], [], [], left)[0]:
            return False
        piece = os.read(self._master, 65536).decode(errors="replace")
        if CURSOR_REQUEST in piece:
            self.type("\x1b[1;1R")
        self._text += piece
        self.all_text += piece
        return True
