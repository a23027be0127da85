"""A stand-in for a model hub on the loopback interface: ranges, etags, and misbehaviour."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llamacffi.hub import transfer

MODEL = b"GGUF" + bytes(range(256)) * 16
SHA256 = hashlib.sha256(MODEL).hexdigest()
CHANGED = b"GGUF" + bytes(reversed(range(256))) * 16


@dataclass
class File:
    """A served file, and how the server misbehaves when it is asked for it."""

    body: bytes
    etag: str | None = '"v1"'
    content_type: str = "application/octet-stream"
    linked_etag: str | None = None  # the hub's name for a large file: its sha256
    linked_size: int | None = None
    status: int = 200
    location: str | None = None
    cut_after: list[int] = field(
        default_factory=list
    )  # one entry per request: bytes before the cut
    claim: int | None = None  # Content-Length, when it is to lie
    ranges: bool = True
    error_code: str | None = None  # the hub's X-Error-Code
    token: str | None = None  # required


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    headers: dict[str, str]


class StandInHub:
    """`files` maps paths to what is served; `seen` records the requests; `url` is the endpoint."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.seen: list[Seen] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def add_model(self, repo: str, name: str, body: bytes, revision: str = "main") -> File:
        """Serve a file as a hub repository's large file."""
        sha256 = hashlib.sha256(body).hexdigest()
        file = File(body, etag=f'"{sha256}"', linked_etag=f'"{sha256}"', linked_size=len(body))
        self.files[f"/{repo}/resolve/{revision}/{name}"] = file
        return file

    def gets(self) -> list[Seen]:
        return [request for request in self.seen if request.method == "GET"]

    @contextlib.contextmanager
    def running(self) -> Iterator[StandInHub]:
        thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        path = request.path.partition("?")[0]
        self.seen.append(Seen(request.command, path, headers))
        file = self.files.get(path, File(b"no such file", status=404, error_code="EntryNotFound"))
        if file.token and headers.get("authorization") != f"Bearer {file.token}":
            file = File(b"who are you?", status=401)
        status, start, extra = file.status, 0, {}
        match = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        unchanged = headers.get("if-range") in (None, file.etag)
        if status == 200 and match and file.ranges and unchanged:
            start = int(match[1])
            status = 206 if start < len(file.body) else 416
            span = f"{start}-{len(file.body) - 1}" if status == 206 else "*"
            extra["Content-Range"] = f"bytes {span}/{len(file.body)}"
        body = file.body[start:] if status != 416 else b""
        length = len(body) if file.claim is None else file.claim
        extra |= {"Content-Length": str(length), "Content-Type": file.content_type}
        optional = {
            "ETag": file.etag,
            "Location": file.location,
            "X-Linked-Etag": file.linked_etag,
            "X-Linked-Size": file.linked_size,
            "X-Error-Code": file.error_code,
            "X-Repo-Commit": "0" * 40,
        }
        extra |= {name: str(value) for name, value in optional.items() if value is not None}
        request.send_response(status)
        for name, value in extra.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        cut = file.cut_after.pop(0) if file.cut_after else None
        with contextlib.suppress(OSError):  # the client may have turned away
            request.wfile.write(body[:cut])
        request.close_connection = cut is not None or file.claim is not None


# -- to be made fixtures: cache, server, hf -------------------------------------------------------


def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the models; no proxies, no token, no waiting before another attempt."""
    monkeypatch.setenv("LLAMACFFI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "RETRY_DELAY_S", 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path / "cache" / "models"


def started() -> Iterator[StandInHub]:
    with StandInHub().running() as running:
        yield running


def hugging_face(server: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandInHub:
    """The server, where huggingface_hub looks for models."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return server


# -- what is left behind -------------------------------------------------------------------------


def leftovers(cache: Path) -> list[Path]:
    """Files of a cache that are neither locks nor models."""
    return [p for p in cache.rglob("*") if p.is_file() and p.suffix not in (".lock", ".gguf")]
