"""A prompt cache in a folder, which processes share and which outlives them."""

from __future__ import annotations

import logging
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from llamacffi.errors import StateError
from llamacffi.prompt_cache import BasePromptCache, Entry, entry_of, key_of
from llamacffi.state_format import State, decode, read_head, write_atomically

__all__ = ["DiskPromptCache", "prompt_cache_folder"]

log = logging.getLogger(__name__)
SUFFIX, PARTIAL = ".state", ".partial"
DEFAULT_BYTES = 8 << 30
ABANDONED_SECONDS = 3600.0  # what a killed process was writing; nobody writes for so long


def prompt_cache_folder() -> Path:
    """The default folder: `prompts` below `LLAMACFFI_CACHE` or the user's cache."""
    if override := os.environ.get("LLAMACFFI_CACHE"):
        return Path(override).expanduser().absolute() / "prompts"
    from platformdirs import user_cache_path

    return user_cache_path("llamacffi") / "prompts"


class DiskPromptCache(BasePromptCache):
    """States kept in a folder, one file for each, in the format of `Context.save_state_file`.

    The folder is all there is: no index that could disagree with it. Files are written whole or not
    at all, and may vanish at any time, so processes share a folder without locks. What cannot be
    read or written is logged and costs time, not the answer. The files tell what the texts were;
    the folder is made for its owner only.

    Args:
        folder: Where; None for `prompts` below `LLAMACFFI_CACHE` or the user's cache.
        capacity_bytes: Most bytes of all files together; the least recently used go first.
        eager: Keep a prompt right after it was computed, if that was long, so that the next
            process finds it.

    Raises:
        OSError: The folder cannot be made.
        ParameterError: The capacity is not positive.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        capacity_bytes: int = DEFAULT_BYTES,
        *,
        eager: bool = True,
    ) -> None:
        super().__init__(capacity_bytes, eager)
        self.folder = prompt_cache_folder() if folder is None else Path(folder)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        # Heads that were read already, by name, inode and size: a name stands for its tokens.
        self._heads: dict[tuple[str, int, int], Entry] = {}

    def __len__(self) -> int:
        return len(self._files())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(info.st_size for _, info in self._files())

    def _files(self, suffix: str = SUFFIX) -> list[tuple[Path, os.stat_result]]:
        found = []
        with suppress(OSError), os.scandir(self.folder) as items:
            for item in items:
                if item.name.endswith(suffix):
                    with suppress(OSError):  # it is gone by now
                        info = item.stat(follow_symlinks=False)
                        if stat.S_ISREG(info.st_mode):  # opening a pipe would block
                            found.append((Path(item.path), info))
        return found

    def entries(self, key: str) -> list[Entry]:
        """The entries with a key."""
        heads = {}
        for path, info in self._files():
            if path.name.startswith(f"{key}-"):
                known = (path.name, info.st_ino, info.st_size)
                entry = self._heads.get(known) or self._read_head(path, key)
                if entry is not None:
                    heads[known] = entry
        kept = {known: entry for known, entry in self._heads.items() if entry.key != key}
        self._heads = {**kept, **heads}  # in one step, for other threads
        return list(heads.values())

    def _read_head(self, path: Path, key: str) -> Entry | None:
        try:
            with path.open("rb") as file:
                head = read_head(file)
                size = file.seek(0, os.SEEK_END)
            if head.whole or key_of(head.conditions) != key:
                raise StateError("It is not what its name says.")
            return entry_of(key, head, size)
        except StateError as error:
            self._drop(path, error)
        except OSError:
            pass
        return None

    def load(self, entry: Entry) -> State | None:
        """An entry's state, used now; None if it is gone."""
        path = self._path(entry)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        try:
            state = decode(data)
        except StateError as error:
            self._drop(path, error)
            return None
        self.touch(entry)
        return state

    def store(self, key: str, state: State) -> Entry | None:
        """Keep a state, and drop what does not fit any more; None if it was not written."""
        pieces = state.pieces()
        entry = entry_of(key, state, sum(len(piece) for piece in pieces))
        if entry.size > self.capacity_bytes:
            log.info("A prompt of %d bytes is too large for the cache.", entry.size)
            return None
        try:
            write_atomically(self._path(entry), pieces)
        except OSError as error:
            log.warning("A prompt could not be kept in %s: %s", self.folder, error)
            return None
        self._evict()
        return entry

    def touch(self, entry: Entry) -> None:
        """Take note that an entry was of use."""
        with suppress(OSError):
            os.utime(self._path(entry))

    def discard(self, entry: Entry) -> None:
        """Drop an entry, if it is there."""
        _unlink(self._path(entry))

    def clear(self) -> None:
        """Drop all entries."""
        for path, _ in self._files():
            _unlink(path)

    def _path(self, entry: Entry) -> Path:
        return self.folder / (entry.name + SUFFIX)

    def _drop(self, path: Path, error: StateError) -> None:
        log.warning("%s is dropped from the prompt cache: %s", path, error)
        _unlink(path)

    def _evict(self) -> None:
        for path, info in self._files(PARTIAL):
            if time.time() - info.st_mtime > ABANDONED_SECONDS:
                _unlink(path)
        files = sorted(self._files(), key=lambda item: item[1].st_mtime_ns)
        total = sum(info.st_size for _, info in files)
        for path, info in files:
            if total <= self.capacity_bytes:
                break
            _unlink(path)
            total -= info.st_size

    def __repr__(self) -> str:
        return f"DiskPromptCache({str(self.folder)!r}, capacity_bytes={self.capacity_bytes})"


def _unlink(path: Path) -> None:
    with suppress(OSError):  # another process was faster
        path.unlink()
