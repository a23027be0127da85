"""The source for Hugging Face repositories.

The optional package `huggingface_hub` knows the endpoint, the token and a file's hash; the bytes
come by our own transfer, so that resuming, cancelling and progress are the same for every source.
"""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from llamacffi.errors import DownloadError
from llamacffi.hub.cache import Item, folder
from llamacffi.hub.progress import Report
from llamacffi.hub.references import HubReference, check_url, split_names

__all__ = ["items", "shared"]


def items(reference: HubReference) -> list[Item]:
    """List the files that a reference stands for: one, or all parts of a split model."""
    place = folder().joinpath(
        "hf", *reference.repo.split("/"), reference.revision.replace("/", "%2F")
    )
    return [
        Item(
            reference=_written(reference, file),
            path=place / file,
            fetch=partial(_fetch, reference, file),
            sha256=reference.sha256 if file == reference.file else None,
        )
        for file in split_names(reference.file)
    ]


def shared(reference: HubReference) -> Path | None:
    """Find the file, with all its parts, in the cache that huggingface_hub's own users share."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = [
        try_to_load_from_cache(reference.repo, file, revision=reference.revision)
        for file in split_names(reference.file)
    ]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return paths[0] if len(paths) == len(found) else None


def _fetch(
    reference: HubReference, file: str, part: Path, report: Report, sha256: str | None
) -> str | None:
    asked = _written(reference, file)
    try:
        import huggingface_hub
    except ImportError as error:
        raise DownloadError(
            f"{asked!r} needs the package huggingface_hub, which cannot be imported ({error}); "
            "pip install llamacffi[hub]"
        ) from error
    from llamacffi.hub.transfer import transfer

    # The package reads HF_ENDPOINT once, when it is imported; a program may set it later.
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    utils: Any = huggingface_hub.utils
    try:
        url: str = huggingface_hub.hf_hub_url(
            reference.repo, file, revision=reference.revision, endpoint=endpoint
        )
        check_url(url)
        metadata: Any = huggingface_hub.get_hf_file_metadata(url)
        authorization: str | None = utils.build_hf_headers().get("authorization")
    except DownloadError:
        raise
    # Its network library has changed twice, and with it the exceptions: only the base is common.
    except Exception as error:
        reason = _explain(error, utils)
        raise DownloadError(f"{asked!r} could not be fetched: {reason}") from error
    # The hub names a large file by its sha256, a small one by git's hash, which says nothing here.
    etag = metadata.etag or ""
    vouched = etag.lower() if re.fullmatch(r"[0-9a-fA-F]{64}", etag) else None
    if sha256 and vouched and sha256 != vouched:
        raise DownloadError(
            f"{asked!r} has the wrong hash: sha256 {sha256} was expected, the hub announces "
            f"{vouched}; "
            "check the revision and the expected hash"
        )
    transfer(
        url,
        part,
        report,
        authorization=authorization,
        sha256=vouched or sha256,
        size=metadata.size,
    )
    return vouched


def _explain(error: Exception, utils: Any) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, utils.GatedRepoError):
        return (
            "the repository is gated; accept its terms on its page and set HF_TOKEN to your token"
        )
    if isinstance(error, utils.RepositoryNotFoundError) or status in (401, 403):
        return (
            "there is no such repository, or it is private; check the spelling, "
            "and for a private one set HF_TOKEN to a token that may read it"
        )
    if isinstance(error, utils.RevisionNotFoundError):
        return "the repository has no such revision; check the part after '@'"
    if isinstance(error, utils.EntryNotFoundError):
        return "the repository has no such file; check the spelling of the file name"
    if isinstance(error, utils.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids the network and the file is not in the cache; unset it"
    reason = f"HTTP {status}" if status else f"{type(error).__name__}: {error}".splitlines()[0]
    return f"the hub gave no answer ({reason}); check the network and HF_ENDPOINT, and try again"


def _written(reference: HubReference, file: str) -> str:
    at = "" if reference.revision == "main" else f"@{reference.revision.replace('/', '%2F')}"
    return f"hf:{reference.repo}{at}/{file}"
