"""The command `llamacffi chat` in tests: its words, and options that make it answer at once."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conftest import N_THREADS

FEW = ["--temp", "0", "-n", "6", "-c", "512", "--backend", "cpu", "-t", str(N_THREADS)]
ENDLESS = [*FEW, "-n", "0", "--grammar", 'root ::= "word " root']
THOUGHT = 'root ::= "<think>\\nhm ha</think>\\n\\nyes"'


def words(model: Path, *more: object) -> list[str]:
    """The command line of a chat."""
    return [sys.executable, "-m", "llamacffi", "chat", str(model), *map(str, more)]
