"""Which model a file holds, in a few bytes: told from the header and samples of the weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from llamacffi.gguf_check import file_parts

__all__ = ["fingerprint"]

N_SAMPLES = 8
SAMPLE_BYTES = 64 * 1024
DIGEST_BYTES = 16
PIECE_BYTES = 1024 * 1024


def fingerprint(
    paths: Iterable[str | os.PathLike[str]], overrides: Mapping[str, object] | None = None
) -> str:
    """A fingerprint of a model's or an adapter's files.

    It covers the metadata, the names, shapes, types and offsets of the tensors, the files' sizes,
    and pieces of the tensors' data (8 of 64 KiB from each file): two models that share all of
    them have the same weights, unless somebody has made them to deceive. Reading takes as long
    for 100 GB as for 1 GB; nearly all of the time goes into the vocabulary.

    Args:
        paths: The files; of a split model the first one is enough.
        overrides: Metadata that replaces the file's.

    Returns:
        32 hexadecimal digits.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    files = {file: size for path in paths for file, size in file_parts(path)}
    for file, header in files.items():
        _add_file(digest, file, header or SAMPLE_BYTES)
    for key, value in sorted((overrides or {}).items()):
        digest.update(repr((key, value)).encode())
    return digest.hexdigest()


def _add_file(digest: hashlib.blake2b, file: Path, header: int) -> None:
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        header = min(header, size)
        digest.update(size.to_bytes(8, "little") + header.to_bytes(8, "little"))
        opened.seek(0)
        left = header
        while left > 0 and (piece := opened.read(min(PIECE_BYTES, left))):
            digest.update(piece)
            left -= len(piece)
        # From right behind the header to the very end, evenly.
        room = max(size - header - SAMPLE_BYTES, 0)
        for start in sorted({header + room * i // (N_SAMPLES - 1) for i in range(N_SAMPLES)}):
            opened.seek(start)
            digest.update(opened.read(SAMPLE_BYTES))
