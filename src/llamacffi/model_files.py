"""The files that a model is loaded from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llamacffi.errors import ModelFormatError, ModelLoadError, ModelNotFoundError

__all__ = ["resolve_files"]

MAGIC = b"GGUF"


def resolve_files(path: Any, progress: bool) -> list[Path]:
    """The files that a model's path stands for, fetched where need be.

    Args:
        path: As `Model` takes it: a file, an alias, a hub reference, or a list of them.
        progress: Whether downloads show a progress bar.

    Raises:
        ModelNotFoundError: No such file or alias.
        ModelFormatError: Not a GGUF file.
        ModelLoadError: It cannot be read.
    """
    if isinstance(path, list | tuple):
        if not path:
            raise ModelNotFoundError("An empty list of model files was given. Name at least one.")
        files = [_resolve(part, progress) for part in path]
    else:
        files = [_resolve(path, progress)]
    for file in files:
        _check_magic(file)
    return files


def _resolve(reference: Any, progress: bool) -> Path:
    if os.path.isfile(reference):  # noqa: PTH113 - takes whatever the user gave
        return Path(reference)
    from llamacffi import hub  # only where something is to be looked up or fetched

    return hub.resolve(reference, progress=progress)


def _check_magic(file: Path) -> None:
    """Say early and plainly what the file is not; llama.cpp's own words come much later."""
    if not file.is_file():
        raise ModelFormatError(f"{file} is not a file. Name a .gguf file.")
    try:
        with file.open("rb") as opened:
            start = opened.read(len(MAGIC))
    except OSError as error:
        raise ModelLoadError(
            f"{file} cannot be read: {error.strerror}. Check its permissions."
        ) from error
    if start != MAGIC:
        found = "it is empty" if not start else f"it starts with {start!r}"
        raise ModelFormatError(
            f"{file} is not a GGUF file: {found} instead of {MAGIC!r}. Download it again, or "
            "convert the model to GGUF first."
        )
