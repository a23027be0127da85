"""The source for URLs."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from llamacffi.hub.cache import Item, folder
from llamacffi.hub.progress import Report
from llamacffi.hub.references import UrlReference, shown, split_names

__all__ = ["items"]


def items(reference: UrlReference) -> list[Item]:
    """List the files that a URL stands for: one, or all parts of a split model."""
    parts = urlsplit(reference.url)
    parent = parts.path.rpartition("/")[0]
    names = split_names(reference.name)
    urls = {
        name: reference.url
        if name == reference.name
        else urlunsplit(parts._replace(path=f"{parent}/{quote(name)}"))
        for name in names
    }
    # Parts must lie side by side, so the folder is that of the first.
    key = hashlib.sha256(urls[names[0]].encode()).hexdigest()[:16]
    place = folder() / "https" / (parts.hostname or "") / key
    return [
        Item(
            reference=shown(url),
            path=place / name,
            fetch=partial(_fetch, url),
            sha256=reference.sha256 if name == reference.name else None,
        )
        for name, url in urls.items()
    ]


def _fetch(url: str, part: Path, report: Report, sha256: str | None) -> None:
    from llamacffi.hub.transfer import transfer

    transfer(url, part, report, sha256=sha256)
