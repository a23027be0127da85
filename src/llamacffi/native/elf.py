"""Whether a shared library is all there: the loader maps one that is cut short, and dies of it."""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["missing_bytes"]

# Elf64_Ehdr and Elf64_Phdr of elf.h; every processor that is built for is little-endian.
_HEADER = struct.Struct("<4s2B10x2H I3Q I6H")
_SEGMENT = struct.Struct("<2I6Q")
_CLASS_64, _LITTLE_ENDIAN, _LOAD = 2, 1, 1


def missing_bytes(path: Path) -> int:
    """How many bytes the segments of an ELF file reach beyond its end; 0 for any other file.

    Raises:
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_HEADER.size)
        if len(start) < _HEADER.size:
            return 0
        magic, width, order, *_, table, _, _, _, step, count, _, _, _ = _HEADER.unpack(start)
        if (magic, width, order) != (b"\x7fELF", _CLASS_64, _LITTLE_ENDIAN):
            return 0
        end = table + step * count
        file.seek(table)
        segments = file.read(step * count)
    if step == _SEGMENT.size:
        whole = segments[: len(segments) // step * step]
        for kind, _, offset, _, _, length, _, _ in _SEGMENT.iter_unpack(whole):
            if kind == _LOAD:
                end = max(end, offset + length)
    return max(int(end) - size, 0)
