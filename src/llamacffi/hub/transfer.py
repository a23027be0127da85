"""One file over HTTP: resumed where it can be, refused where it must be."""

from __future__ import annotations

import http.client
import json
import logging
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from llamacffi.errors import DownloadError
from llamacffi.hub.cache import discard, part_state, write_json
from llamacffi.hub.progress import Report
from llamacffi.hub.references import check_url, is_loopback, shown
from llamacffi.hub.verify import GGUF_MAGIC, not_gguf

if TYPE_CHECKING:
    from typing import IO

__all__ = ["transfer"]

RETRIES = 3
RETRY_DELAY_S = 1.0
TIMEOUT_S = 30.0
_CHUNK = 1 << 20
_TRANSIENT = {429, 500, 502, 503, 504}
_REMEDIES = {
    401: "the server wants a login; check the token (HF_TOKEN) or fetch the file by other means",
    403: "access is refused; check that the link has not expired and that you may read it",
    404: "there is no such file; check the spelling and the revision",
    416: "the server refuses to send the file's bytes; try again later or from another source",
}

_logger = logging.getLogger(__name__)


class _InterruptedError(Exception):
    """The transfer stopped half-way for a reason that may pass."""


class _StalePartError(_InterruptedError):
    """What is there already cannot be continued."""


def transfer(
    url: str,
    part: Path,
    report: Report,
    *,
    authorization: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
) -> None:
    """Make `part` the whole of `url`, going on from the bytes that are already in it.

    Args:
        url: An https URL (http to this machine).
        part: The partial file; it is kept when the transfer is cut or cancelled.
        report: Called with the bytes done and the total.
        authorization: An Authorization header for this host; never sent to another one.
        sha256: The expected hash. Bytes fetched for another one are not resumed.
            The caller verifies.
        size: The expected length, if it is known beforehand.

    Raises:
        DownloadError: The server cannot be reached, refuses, or sends something else.
        CancelledError: Raised by `report`.
    """
    check_url(url)
    for attempt in range(RETRIES + 1):
        try:
            _attempt(url, part, report, authorization, sha256, size)
            return
        except _InterruptedError as error:
            if isinstance(error, _StalePartError):
                discard(part)
            if attempt == RETRIES:
                raise DownloadError(
                    f"the download of {shown(url)!r} was interrupted {attempt + 1} times: {error}; "
                    "what arrived is kept, ask again to resume"
                ) from error
            _logger.info("download of %s interrupted (%s); trying again", shown(url), error)
            time.sleep(RETRY_DELAY_S * 2**attempt)


def _attempt(
    url: str,
    part: Path,
    report: Report,
    authorization: str | None,
    sha256: str | None,
    size: int | None,
) -> None:
    offset, validator = _resume_point(part, sha256)
    response = _open(url, offset, validator, authorization)
    if response is None:  # cut after the last byte: nothing is missing
        return
    with response:
        body = _read_headers(url, response, offset)
        if size is not None and body.total not in (None, size):
            raise DownloadError(
                f"{shown(url)!r} has the wrong length: {size} bytes were expected, "
                f"the server offers {body.total}; the file has changed or the server is at fault, "
                "try again later"
            )
        _check_space(part, url, body)
        if body.start == 0:
            discard(part)
            part.touch()
            _remember(part, body.validator, sha256)
        _receive(url, response, part, report, body, size)


@dataclass(frozen=True)
class _Body:
    start: int
    total: int | None
    validator: str | None


def _read_headers(url: str, response: http.client.HTTPResponse, offset: int) -> _Body:
    headers, start, total = response.headers, 0, None
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if match is None or int(match[1]) != offset:
            raise _StalePartError("the server sent another range than the one asked for")
        start, total = offset, None if match[2] == "*" else int(match[2])
    elif response.status == 200:
        length = headers.get("Content-Length", "")
        total = int(length) if length.isascii() and length.isdecimal() else None
    else:
        raise DownloadError(
            f"{shown(url)!r} could not be fetched: the server answered HTTP {response.status} "
            "without a file; try again later"
        )
    etag = headers.get("ETag", "")
    # If-Range wants a strong validator: a weak ETag promises no equality of bytes.
    validator = etag if etag.startswith('"') else headers.get("Last-Modified")
    return _Body(start, total, validator)


def _receive(
    url: str,
    response: http.client.HTTPResponse,
    part: Path,
    report: Report,
    body: _Body,
    size: int | None,
) -> None:
    done = body.start
    limit = size if body.total is None else body.total
    with part.open("ab") as file:
        report(done, limit)
        while chunk := _read(response):
            # Judged by its first bytes: a login page is not worth the disk.
            if not chunk.startswith(GGUF_MAGIC[done : done + len(chunk)]):
                file.close()
                discard(part)
                raise not_gguf(shown(url), chunk[:4], response.headers.get("Content-Type"))
            done += len(chunk)
            if limit is not None and done > limit:
                file.close()
                discard(part)
                raise DownloadError(
                    f"{shown(url)!r} has the wrong length: more than {limit} bytes arrived; try "
                    "again later"
                )
            file.write(chunk)
            report(done, limit)
    if limit is not None and done < limit:
        raise _InterruptedError(f"{done} of {limit} bytes arrived")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(f"the connection broke ({error!r})") from error


def _open(
    url: str, offset: int, validator: str | None, authorization: str | None
) -> http.client.HTTPResponse | None:
    headers = {"User-Agent": "llamacffi", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator is not None:
            headers["If-Range"] = validator
    request = Request(url, headers=headers)  # noqa: S310 - check_url has seen it
    if authorization is not None:
        request.add_unredirected_header("Authorization", authorization)
    loopback = is_loopback(urlsplit(url).hostname or "")
    # A proxy knows another machine by the name of localhost.
    opener = build_opener(_Redirects(loopback), *([ProxyHandler({})] if loopback else []))
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        with error:
            if error.code == 416 and offset:
                if error.headers.get("Content-Range") == f"bytes */{offset}":
                    return None
                raise _StalePartError("the file has become shorter") from error
            if error.code in _TRANSIENT:
                raise _InterruptedError(f"the server answered HTTP {error.code}") from error
            raise DownloadError(_refusal(url, error)) from error
    except URLError as error:
        raise DownloadError(
            f"cannot reach the server of {shown(url)!r}: {error.reason}; check the network and "
            "the proxy settings"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(f"the server gave no answer ({error!r})") from error
    return response


def _refusal(url: str, error: HTTPError) -> str:
    if 300 <= error.code < 400:
        found = f"it redirects in a loop or to no usable place (HTTP {error.code})"
        remedy = "check the URL"
    else:
        found = f"the server answered HTTP {error.code}"
        remedy = _REMEDIES.get(error.code, "check the URL and try again later")
    return f"{shown(url)!r} could not be fetched: {found}; {remedy}"


class _Redirects(HTTPRedirectHandler):
    """Follow redirects to https only; a token goes along only to the host that it was meant for."""

    http_error_308 = HTTPRedirectHandler.http_error_302  # Python 3.10 does not know this status

    def __init__(self, loopback: bool) -> None:
        self._loopback = loopback

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> Request | None:
        try:
            check_url(newurl, loopback=self._loopback)
        except DownloadError as error:
            fp.close()
            raise DownloadError(f"{shown(req.full_url)!r} redirects elsewhere: {error}") from error
        code = 307 if code == 308 else code
        target = super().redirect_request(req, fp, code, msg, headers, newurl)
        authorization = req.get_header("Authorization")
        if target and authorization and (target.type, target.host) == (req.type, req.host):
            target.add_unredirected_header("Authorization", authorization)
        return target


def _check_space(part: Path, url: str, body: _Body) -> None:
    free = shutil.disk_usage(part.parent).free
    if body.total is not None and body.total - body.start > free:
        raise DownloadError(
            f"no room for {shown(url)!r}: {body.total - body.start} bytes are needed, {free} are "
            "free; free some space or set LLAMACFFI_CACHE to a larger disk"
        )


def _resume_point(part: Path, sha256: str | None) -> tuple[int, str | None]:
    try:
        state = json.loads(part_state(part).read_text("utf-8"))
        validator, fetched_for = state["validator"], state["sha256"]
        offset = part.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return 0, None
    # Without a validator only the final hash can tell whether the two halves belong together.
    if fetched_for not in (None, sha256) or (validator is None and sha256 is None):
        return 0, None
    return offset, validator


def _remember(part: Path, validator: str | None, sha256: str | None) -> None:
    write_json(part_state(part), {"validator": validator, "sha256": sha256})
