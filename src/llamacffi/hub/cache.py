"""The folder of fetched models: where a file belongs, what is known of it, and who may write it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from llamacffi.call import check_cancelled
from llamacffi.hub.progress import Report

__all__ = [
    "CachedModel",
    "Item",
    "cached",
    "discard",
    "folder",
    "install",
    "locked",
    "lookup",
    "part_state",
    "write_json",
]

_META = ".meta.json"


@dataclass(frozen=True)
class CachedModel:
    """A model file in the cache.

    Attributes:
        path: Where it lies.
        reference: What was asked for when it was fetched.
        size: Its length in bytes.
        sha256: Its hash, computed when it was fetched.
        verified: Whether that hash was compared with one given by the caller, the alias or the hub.
    """

    path: Path
    reference: str
    size: int
    sha256: str
    verified: bool


@dataclass(frozen=True)
class Item:
    """One file that a reference needs.

    Attributes:
        reference: What to call it in messages.
        path: Its place in the cache.
        fetch: Called with a partial file to complete, a function that reports progress, and the
            expected hash; returns the hash that the source vouches for, or None.
        sha256: The expected hash.
        size: The expected length.
    """

    reference: str
    path: Path
    fetch: Callable[[Path, Report, str | None], str | None]
    sha256: str | None = None
    size: int | None = None

    @property
    def part(self) -> Path:
        """The file that a download grows, and that a later one resumes."""
        return self.path.with_name(self.path.name + ".part")


def folder() -> Path:
    """The folder of fetched models: `models` below `LLAMACFFI_CACHE` or the user's cache."""
    if override := os.environ.get("LLAMACFFI_CACHE"):
        return Path(override).expanduser().absolute() / "models"
    from platformdirs import user_cache_path

    return user_cache_path("llamacffi") / "models"


def cached() -> list[CachedModel]:
    """List the models in the cache that are whole, in the order of their paths."""
    names = sorted(folder().rglob("*" + _META))
    models = (lookup(meta.with_name(meta.name.removesuffix(_META))) for meta in names)
    return [model for model in models if model is not None]


def lookup(path: Path) -> CachedModel | None:
    """Return what is known of a cached file; None if it is absent or of another length."""
    try:
        fields = json.loads(_meta(path).read_text("utf-8"))
        model = CachedModel(
            path, fields["reference"], fields["size"], fields["sha256"], fields["verified"]
        )
        return model if path.stat().st_size == model.size else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def install(item: Item, sha256: str, *, verified: bool) -> CachedModel:
    """Move a complete and checked partial file to its place."""
    with item.part.open("rb") as file:
        os.fsync(file.fileno())
        size = file.seek(0, os.SEEK_END)
    model = CachedModel(item.path, item.reference, size, sha256, verified)
    fields = {name: value for name, value in asdict(model).items() if name != "path"}
    # Without its description a file counts as absent: a crash in between means fetching again.
    _meta(item.path).unlink(missing_ok=True)
    item.part.replace(item.path)
    write_json(_meta(item.path), fields)
    discard(item.part)
    return model


def write_json(path: Path, fields: dict[str, object]) -> None:
    """Write a small file that a reader sees whole or not at all; the caller holds the lock."""
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(json.dumps(fields, indent=1), "utf-8")
    scratch.replace(path)


def part_state(part: Path) -> Path:
    """The file beside a partial one that says what a resumed download has to match."""
    return part.with_name(part.name + ".json")


def discard(part: Path) -> None:
    """Forget a partial file, so that the next download starts from nothing."""
    part.unlink(missing_ok=True)
    part_state(part).unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the right to write `path`, against threads and processes, until the block ends.

    The operating system drops the lock with its process, so a killed download leaves no stale one;
    the empty lock file stays, because removing it would race with the next holder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("ab") as file:
        while not _try_lock(file.fileno()):
            check_cancelled()
            time.sleep(0.05)
        yield


if sys.platform == "win32":

    def _try_lock(descriptor: int) -> bool:
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:

    def _try_lock(descriptor: int) -> bool:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _meta(path: Path) -> Path:
    return path.with_name(path.name + _META)
