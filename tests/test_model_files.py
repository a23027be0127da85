"""Files of models: split ones, odd names, and those that are no models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llamacffi.errors import (
    LlamaCffiError,
    ModelFormatError,
    ModelLoadError,
    ModelNotFoundError,
)
from tests.models import load, logits_of
from tests.tiny_models import (
    write_split,
)


def test_a_split_model(tmp_path: Path, tiny_path: Path) -> None:
    parts = write_split(tmp_path / "split.gguf")
    assert all(part.is_file() for part in parts)
    with load(tiny_path) as whole:
        wanted = logits_of(whole)
    with load(parts[0]) as model:
        assert logits_of(model) == wanted
    own_names = [part.rename(tmp_path / f"{name}.gguf") for part, name in zip(parts, "ab")]  # noqa: B905
    with load(own_names) as model:
        assert model.paths == own_names
        assert logits_of(model) == wanted
    with load([tiny_path]) as model:
        assert logits_of(model) == wanted


def test_a_split_model_with_a_part_missing(tmp_path: Path) -> None:
    first, second = write_split(tmp_path / "split.gguf")
    second.unlink()
    with pytest.raises(LlamaCffiError, match="split"):
        load(first)
    with pytest.raises(ModelLoadError):
        load([first, second])


def test_the_wrong_parts(tmp_path: Path, tiny_path: Path) -> None:
    first, second = write_split(tmp_path / "split.gguf")
    for files in ([first, tiny_path], [second, first], [first, first], [second]):
        with pytest.raises(ModelLoadError):
            load(files)


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", str(tmp_path / "none.gguf"), "no-such-alias", "", []):
        with pytest.raises(ModelNotFoundError):
            load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.gguf")


@pytest.mark.parametrize("path", [None, 5, 1.5, [None]])
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(TypeError):
        load(path)


def test_a_path_with_a_nul_character() -> None:
    with pytest.raises(ModelNotFoundError):
        load("a\0b.gguf")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"folder|not a file"):
        load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"GGU", b"not a model at all", b"\x80\x02}q\x00.", b"GGML" * 20]
)
def test_not_a_gguf_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match="not a GGUF file"):
        load(path)


@pytest.mark.parametrize("size", [4, 8, 24, 100, 5000, 20_000, -1])
def test_cut_short(tmp_path: Path, tiny_path: Path, size: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_path.read_bytes()[:size])
    with pytest.raises(ModelFormatError):
        load(path)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_an_unreadable_file(tmp_path: Path, tiny_path: Path) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(tiny_path.read_bytes())
    path.chmod(0)
    with pytest.raises(ModelLoadError, match="permission"):
        load(path)


def test_a_name_that_is_not_ascii(tmp_path: Path, tiny_path: Path) -> None:
    path = tmp_path / "モデル é.gguf"
    path.write_bytes(tiny_path.read_bytes())
    with load(path) as model:
        assert model.path == path
