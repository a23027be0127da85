"""The pin: which llama.cpp commit subprojects/llama.cpp.wrap names, and where its tree lies."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path

from codegen.preprocess import CodegenError

WRAP = Path("subprojects/llama.cpp.wrap")
_REVISION = re.compile(r"^(revision\s*=\s*)(\S+)", re.M)
_DIRECTORY = re.compile(r"^(directory\s*=\s*)(\S+)", re.M)
_FULL_REVISION = re.compile(r"[0-9a-f]{40}")
DIRECTORY_DIGITS = 12


@dataclass(frozen=True)
class Pin:
    """A llama.cpp commit and the name of the folder its tree is kept in."""

    revision: str
    directory: str


def read_pin(root: Path) -> Pin:
    """Read the pin from the wrap file."""
    text = _wrap_text(root)
    revision, directory = _REVISION.search(text), _DIRECTORY.search(text)
    if revision is None or directory is None:
        raise CodegenError(f"{root / WRAP} lacks a `revision =` or a `directory =` line")
    return Pin(revision[2], directory[2])


def write_pin(root: Path, revision: str) -> Pin:
    """Point the wrap file at another commit."""
    if _FULL_REVISION.fullmatch(revision) is None:
        raise CodegenError(f"{revision!r} is not a full commit id (40 hexadecimal digits)")
    directory = f"llama.cpp-{revision[:DIRECTORY_DIGITS]}"
    text = _REVISION.sub(rf"\g<1>{revision}", _wrap_text(root))
    (root / WRAP).write_text(_DIRECTORY.sub(rf"\g<1>{directory}", text))
    return Pin(revision, directory)


def find_source(root: Path) -> Path:
    """The pinned tree in ``subprojects/`` or in Meson's package cache below it."""
    pin = read_pin(root)
    places = [root / "subprojects" / pin.directory]
    places.append(root / "subprojects" / "packagecache" / pin.directory)
    for place in places:
        if (place / "include" / "llama.h").is_file():
            return place
    looked = " and ".join(str(place.relative_to(root)) for place in places)
    raise CodegenError(
        f"the llama.cpp tree of commit {pin.revision} is not here (looked in {looked}): fetch it "
        "with `meson subprojects download llama.cpp`, or name it with --source"
    )


def fetch_source(root: Path) -> Path:
    """The pinned tree, fetched by the build backend if it is not here."""
    try:
        return find_source(root)
    except CodegenError as missing:
        try:
            # Only here, since everything else works without the build backend.
            module = importlib.import_module("build_backend.source")
            return Path(module.ensure_source(root))
        except Exception as error:
            raise CodegenError(f"{missing}\nfetching it failed: {error}") from error


def _wrap_text(root: Path) -> str:
    try:
        return (root / WRAP).read_text()
    except FileNotFoundError:
        raise CodegenError(f"no {WRAP} in {root}: run this at the repository root") from None
