"""The bytes of a saved state: what it depends on and the tokens, in front of llama.cpp's own.

    8 bytes   magic
    4         version of this format                  little-endian, as all numbers
    4         length of the header
    8         length of llama.cpp's bytes
    32        blake2b of everything else
    header    JSON
    tokens    int32, those of each sequence after each other
    the rest  llama.cpp's bytes

Nothing in it is executed. The checksum finds damage; it does not prove who wrote the bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from llamacffi.errors import StateError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Remembered", "State", "decode", "read_head", "write_atomically"]

MAGIC = b"LCFFI\x00ST"
VERSION = 1
PREFIX = struct.Struct("<8sIIQ32s")
UNHASHED = 24  # where the checksum stands
MAX_HEADER_BYTES = 1 << 20
TOKEN_BYTES = 4
MAX_POSITION = 2**31 - 2
PIECE_BYTES = 1 << 24


@dataclass(frozen=True)
class Remembered:
    """What a state knows of one sequence.

    Attributes:
        sequence: Its id.
        position_min: The smallest position; -1 if nothing is remembered.
        position_max: The largest; -1 if nothing is remembered.
        tokens: int32, those at positions 0, 1, 2, ...; fewer where they are not known.
    """

    sequence: int
    position_min: int
    position_max: int
    tokens: NDArray[np.int32]


@dataclass(frozen=True)
class State:
    """A saved state, taken apart.

    Attributes:
        conditions: What must be the same where it is loaded, by name.
        about: What is not compared: the model's name, the size of the context.
        whole: All sequences of a context, not one.
        sequences: What it holds.
        native: llama.cpp's bytes; empty if only the head was read.
        native_size: How many they are.
    """

    conditions: dict[str, Any]
    about: dict[str, Any]
    whole: bool
    sequences: tuple[Remembered, ...]
    native: memoryview
    native_size: int

    @property
    def n_tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(len(item.tokens) for item in self.sequences)

    def pieces(self) -> list[bytes | memoryview]:
        """The bytes to write one after the other; join them for a copy in one piece."""
        header = {
            "kind": "whole" if self.whole else "sequence",
            "conditions": self.conditions,
            "about": self.about,
            "sequences": [
                [s.sequence, s.position_min, s.position_max, len(s.tokens)] for s in self.sequences
            ],
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        prefix = PREFIX.pack(MAGIC, VERSION, len(text), len(self.native), b"")[:UNHASHED]
        body: list[bytes | memoryview] = [
            text,
            *(s.tokens.tobytes() for s in self.sequences),
            self.native,
        ]
        return [prefix, _checksum([prefix, *body]), *body]


def decode(data: Any) -> State:
    """Take saved bytes apart, and check that they are whole.

    Args:
        data: Anything with the buffer protocol.

    Raises:
        StateError: They are no state, of another version, cut short or damaged.
    """
    view = _bytes_of(data)
    state, start = _head(view, len(view))
    if _checksum([view[:UNHASHED], view[PREFIX.size :]]) != bytes(view[UNHASHED : PREFIX.size]):
        raise StateError(
            "The state is damaged: its checksum does not match. Save it again, or use a copy."
        )
    return State(**{**vars(state), "native": view[start:]})


def read_head(file: IO[bytes]) -> State:
    """Read what a state in a file is about, without llama.cpp's bytes and their checksum.

    Raises:
        StateError: As decode, but for damage that the lengths do not show.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(PREFIX.size)
    length = PREFIX.unpack(start)[2] if len(start) == PREFIX.size else 0
    start += file.read(min(length, MAX_HEADER_BYTES))
    _, _, counts = _header(memoryview(start), size)
    start += file.read(sum(counts) * TOKEN_BYTES)  # at most the file's size, as was checked
    return _head(memoryview(start), size)[0]


def write_atomically(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file so that there is the old one or the new one, whatever happens; mode 0600.

    Raises:
        OSError: It could not be written. The previous file is as it was.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    with suppress(OSError):  # not every system lets a folder be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# -- reading ------------------------------------------------------------------------------------


def _bytes_of(data: Any) -> memoryview:
    try:
        view = memoryview(data)
        return view.cast("B") if view.nbytes else memoryview(b"")
    except TypeError:
        raise StateError(
            f"A state is bytes, not {type(data).__name__}. Give what save_state returned; for a "
            "file use load_state_file."
        ) from None


def _checksum(pieces: Iterable[bytes | memoryview]) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _header(view: memoryview, size: int) -> tuple[dict[str, Any], int, list[int]]:
    """The JSON, where the tokens start, and how many each sequence has; all lengths agree."""
    if len(view) < len(MAGIC) or view[: len(MAGIC)] != MAGIC:
        found = "it is empty" if not len(view) else f"it starts with {bytes(view[:8])!r}"
        raise StateError(f"This is no saved state: {found} instead of {MAGIC!r}.")
    if len(view) < PREFIX.size:
        raise StateError(f"The state is cut short: {size} bytes are left of it. Save it again.")
    _, version, length, native_size, _ = PREFIX.unpack(view[: PREFIX.size])
    if version != VERSION:
        raise StateError(
            f"The state has version {version} of the format; this llamacffi reads {VERSION}. "
            "Save it again with this version."
        )
    end = PREFIX.size + length
    if length > MAX_HEADER_BYTES or len(view) < end:
        raise StateError(f"The state is cut short or damaged: its header has {length} bytes.")
    try:
        header = json.loads(bytes(view[PREFIX.size : end]))
        rows = header["sequences"]
        good = (
            header["kind"] in ("whole", "sequence")
            and isinstance(header["conditions"], dict)
            and isinstance(header["about"], dict)
            and all(len(row) == 4 and all(type(n) is int for n in row) for row in rows)
            and all(0 <= row[3] <= row[2] + 1 <= MAX_POSITION for row in rows)
            and all(row[0] >= 0 and -1 <= row[1] <= row[2] for row in rows)
            and len({row[0] for row in rows}) == len(rows)
            and (header["kind"] == "whole" or len(rows) == 1)
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise StateError("The state is damaged: its header makes no sense. Save it again.")
    counts = [row[3] for row in rows]
    expected = end + sum(counts) * TOKEN_BYTES + native_size
    if size != expected:
        raise StateError(
            f"The state is cut short or damaged: it has {size} bytes and should have {expected}. "
            "Save it again."
        )
    return header, end, counts


def _head(view: memoryview, size: int) -> tuple[State, int]:
    import numpy as np

    header, at, counts = _header(view, size)
    sequences = []
    for row, count in zip(header["sequences"], counts, strict=True):
        tokens = np.frombuffer(view[at : at + count * TOKEN_BYTES], "<i4")
        at += count * TOKEN_BYTES
        sequences.append(Remembered(row[0], row[1], row[2], tokens))
    whole = header["kind"] == "whole"
    state = State(
        header["conditions"], header["about"], whole, tuple(sequences), view[:0], size - at
    )
    return state, at
