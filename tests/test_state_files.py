"""States in files: written whole or not at all, and found damaged where they are."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest

from llamacffi import Context
from llamacffi.errors import (
    StateError,
)
from tests.states import TOKENS, remembering

filled = pytest.fixture(remembering)


def test_files(tmp_path: Path, filled: Context) -> None:
    path = tmp_path / "talk.state"
    filled.save_state_file(path, 0)
    assert path.read_bytes() == filled.save_state(0)
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    filled.memory.clear()
    filled.load_state_file(path)
    assert filled.memory.tokens() == TOKENS
    assert [item.name for item in tmp_path.iterdir()] == ["talk.state"]
    with pytest.raises(FileNotFoundError):
        filled.load_state_file(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        filled.save_state_file(tmp_path / "no" / "folder")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_the_previous_file_survives(
    tmp_path: Path, filled: Context, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "talk.state"
    filled.save_state_file(path)
    before = path.read_bytes()
    filled.decode_tokens([1])

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space"):
        filled.save_state_file(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["talk.state"]


def test_damaged_files(tmp_path: Path, filled: Context) -> None:
    path = tmp_path / "talk.state"
    saved = filled.save_state(0)
    chance = random.Random(7)
    for cut in [0, 1, 8, 55, 56, 57, *(chance.randrange(len(saved)) for _ in range(20))]:
        path.write_bytes(saved[:cut])
        with pytest.raises(StateError):
            filled.load_state_file(path)
    path.write_bytes(saved[:-1] + bytes([saved[-1] ^ 1]))
    with pytest.raises(StateError, match="checksum"):
        filled.load_state_file(path)
    assert filled.memory.tokens() == TOKENS
