"""Whether a fetched file is what was asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path

from llamacffi.errors import DownloadError

__all__ = ["GGUF_MAGIC", "check", "not_gguf", "sha256_of"]

GGUF_MAGIC = b"GGUF"


def check(path: Path, asked: str, *, size: int | None, sha256: str | None) -> str:
    """Check a complete file's magic, length and hash, each if it is known beforehand.

    Returns:
        The file's sha256.

    Raises:
        DownloadError: The file is something else.
    """
    with path.open("rb") as file:
        head = file.read(len(GGUF_MAGIC))
    if head != GGUF_MAGIC:
        raise not_gguf(asked, head)
    found = path.stat().st_size
    if size is not None and found != size:
        raise DownloadError(
            f"{asked!r} has the wrong length: {size} bytes were expected, {found} arrived; "
            "nothing was kept, try again"
        )
    digest = sha256_of(path)
    if sha256 not in (None, digest):
        raise DownloadError(
            f"{asked!r} has the wrong hash: sha256 {sha256} was expected, {digest} arrived; "
            "nothing was kept. "
            "Try again; if it happens twice, the file was changed or the expected hash is mistaken"
        )
    return digest


def not_gguf(asked: str, head: bytes, content_type: str | None = None) -> DownloadError:
    """Make the error for bytes that do not begin as a GGUF file does."""
    if head.startswith(b"<") or "html" in (content_type or ""):
        found = "a web page"
    else:
        found = f"a file that begins with {head!r}" if head else "an empty file"
    return DownloadError(
        f"{asked!r} is no GGUF file: {found} arrived (a model begins with {GGUF_MAGIC!r}); "
        "check the reference: it must lead to the file itself, not to a page about it"
    )


def sha256_of(path: Path) -> str:
    """Hash a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
