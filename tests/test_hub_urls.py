"""Models by URL, against a server on the loopback interface: resuming, redirects, misbehaviour."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llamacffi import hub
from llamacffi.errors import CancelledError, DownloadError, ModelNotFoundError
from llamacffi.hub import references
from tests.stand_in_hub import (
    CHANGED,
    MODEL,
    SHA256,
    File,
    StandInHub,
    empty_cache,
    leftovers,
    started,
)

cache = pytest.fixture(autouse=True)(empty_cache)
server = pytest.fixture(started)


def test_url_with_hash(server: StandInHub, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    server.files["/a/x.gguf"] = File(MODEL)
    calls: list[tuple[int, int | None]] = []
    url = f"{server.url}/a/x.gguf#sha256={SHA256}"
    path = hub.resolve(url, progress=lambda done, total: calls.append((done, total)))
    assert path.read_bytes() == MODEL
    assert cache in path.parents
    assert calls[0] == (0, len(MODEL))
    assert calls[-1] == (len(MODEL), len(MODEL))
    (model,) = hub.cached()
    assert (model.path, model.size, model.sha256, model.verified) == (
        path,
        len(MODEL),
        SHA256,
        True,
    )
    assert "unverified" not in caplog.text
    assert hub.resolve(url, download=False) == path
    assert len(server.seen) == 1
    assert leftovers(cache) == [path.with_name("x.gguf.meta.json")]


def test_url_without_hash_is_said_to_be_unverified(
    server: StandInHub, caplog: pytest.LogCaptureFixture
) -> None:
    server.files["/x.gguf"] = File(MODEL)
    with caplog.at_level(logging.WARNING):
        hub.resolve(f"{server.url}/x.gguf?signature=secret")
    assert "unverified" in caplog.text
    assert "secret" not in caplog.text + repr(hub.cached())
    assert not hub.cached()[0].verified


def test_cached_file_of_another_length_or_hash_is_fetched_again(server: StandInHub) -> None:
    server.files["/x.gguf"] = File(MODEL)
    url = f"{server.url}/x.gguf"
    path = hub.resolve(url)
    path.write_bytes(MODEL[:-1])
    assert hub.cached() == []
    assert hub.resolve(url).read_bytes() == MODEL
    server.files["/x.gguf"] = File(CHANGED, etag='"v2"')
    assert hub.resolve(url).read_bytes() == MODEL
    wanted = hashlib.sha256(CHANGED).hexdigest()
    assert hub.resolve(url, sha256=wanted).read_bytes() == CHANGED


def test_cut_connection_is_resumed(server: StandInHub) -> None:
    server.files["/x.gguf"] = File(MODEL, cut_after=[1000, 500])
    assert hub.resolve(f"{server.url}/x.gguf#sha256={SHA256}").read_bytes() == MODEL
    first, second, third = (request.headers for request in server.gets())
    assert "range" not in first
    assert (second["range"], second["if-range"]) == ("bytes=1000-", '"v1"')
    assert third["range"] == "bytes=1500-"


def test_next_call_resumes(server: StandInHub, cache: Path) -> None:
    server.files["/x.gguf"] = File(MODEL, cut_after=[1000, 0, 0, 0])
    with pytest.raises(DownloadError, match=r"1000 of 4100 bytes.*resume"):
        hub.resolve(f"{server.url}/x.gguf")
    assert hub.cached() == []
    assert hub.resolve(f"{server.url}/x.gguf").read_bytes() == MODEL
    assert server.gets()[-1].headers["range"] == "bytes=1000-"
    assert not list(cache.rglob("*.part*"))


@pytest.mark.parametrize("ranges", [True, False])
def test_changed_file_restarts(server: StandInHub, ranges: bool) -> None:
    server.files["/x.gguf"] = File(MODEL, cut_after=[1000, 0, 0, 0])
    with pytest.raises(DownloadError):
        hub.resolve(f"{server.url}/x.gguf")
    server.files["/x.gguf"] = File(CHANGED, etag='"v2"', ranges=ranges)
    assert hub.resolve(f"{server.url}/x.gguf").read_bytes() == CHANGED
    assert server.gets()[-1].headers["if-range"] == '"v1"'


def test_without_validator_and_hash_nothing_is_resumed(server: StandInHub) -> None:
    server.files["/x.gguf"] = File(MODEL, etag='W/"weak"', cut_after=[1000])
    assert hub.resolve(f"{server.url}/x.gguf").read_bytes() == MODEL
    assert all("range" not in request.headers for request in server.gets())


def test_shrunken_file_answers_416_and_restarts(server: StandInHub) -> None:
    server.files["/x.gguf"] = File(MODEL, cut_after=[1000, 0, 0, 0])
    with pytest.raises(DownloadError):
        hub.resolve(f"{server.url}/x.gguf")
    server.files["/x.gguf"] = File(MODEL[:600])  # the same etag: the server is at fault
    assert hub.resolve(f"{server.url}/x.gguf").read_bytes() == MODEL[:600]


def test_partial_file_that_is_whole_is_verified_not_fetched(
    server: StandInHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/x.gguf"] = File(MODEL)
    url = f"{server.url}/x.gguf#sha256={SHA256}"

    def stop(done: int, total: int | None) -> bool:
        return done < len(MODEL)

    with pytest.raises(CancelledError):
        hub.resolve(url, progress=stop)
    assert hub.resolve(url).read_bytes() == MODEL
    assert server.gets()[-1].headers["range"] == f"bytes={len(MODEL)}-"


def test_cancelling_keeps_what_arrived(server: StandInHub, cache: Path) -> None:
    big = MODEL * 2000
    server.files["/x.gguf"] = File(big)
    with pytest.raises(CancelledError, match="progress callback"):
        hub.resolve(f"{server.url}/x.gguf", progress=lambda done, total: done < 100_000)
    (part,) = cache.rglob("*.part")
    kept = part.stat().st_size
    assert 100_000 <= kept < len(big)
    assert hub.resolve(f"{server.url}/x.gguf").read_bytes() == big
    assert server.gets()[-1].headers["range"] == f"bytes={kept}-"


HOSTILE: dict[str, tuple[File, str]] = {
    "404": (File(b"", status=404), "HTTP 404; there is no such file"),
    "403": (File(b"", status=403), "HTTP 403; access is refused"),
    "401": (File(b"", status=401), "HTTP 401; the server wants a login"),
    "416": (File(b"", status=416), "HTTP 416; the server refuses"),
    "204": (File(b"", status=204), "HTTP 204 without a file"),
    "503": (File(b"", status=503), "interrupted 4 times.*HTTP 503"),
    "html": (File(b"<html>log in</html>", content_type="text/html"), "a web page arrived"),
    "not-gguf": (File(b"PK\3\4 zip"), "a file that begins with b'PK"),
    "empty": (File(b""), "an empty file arrived"),
    "short": (File(MODEL, claim=len(MODEL) + 9, ranges=False), "4100 of 4109 bytes arrived"),
    "wrong-hash": (File(CHANGED), f"wrong hash: sha256 {SHA256} was expected"),
    "loop": (File(b"", status=302, location="/x.gguf"), "redirects in a loop"),
    "http": (File(b"", status=302, location="http://example.invalid/x"), "use https://"),
    "file": (File(b"", status=302, location="file:///etc/passwd"), "no usable place"),
    "ftp": (File(b"", status=307, location="ftp://example.invalid/x"), "redirects elsewhere"),
    "huge": (File(MODEL, claim=1 << 60), "no room"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_server(server: StandInHub, cache: Path, kind: str) -> None:
    server.files["/x.gguf"], message = HOSTILE[kind]
    with pytest.raises(DownloadError, match=message) as caught:
        hub.resolve(f"{server.url}/x.gguf#sha256={SHA256}")
    assert f"{server.url}/x.gguf" in str(caught.value)
    assert hub.cached() == []
    assert not list(cache.rglob("*.gguf"))
    if kind in ("wrong-hash", "html", "not-gguf"):
        assert leftovers(cache) == []


def test_redirect_on_loopback_is_followed(server: StandInHub) -> None:
    server.files["/x.gguf"] = File(b"", status=308, location="/y.gguf")
    server.files["/y.gguf"] = File(MODEL)
    assert hub.resolve(f"{server.url}/x.gguf").name == "x.gguf"


def test_https_origin_may_not_redirect_to_plain_http_on_loopback() -> None:
    references.check_url("http://localhost:1/x.gguf")
    with pytest.raises(DownloadError, match="refused to fetch"):
        references.check_url("http://localhost:1/x.gguf", loopback=False)


def test_unreachable_server(server: StandInHub) -> None:
    server.server.server_close()
    with pytest.raises(DownloadError, match="cannot reach the server"):
        hub.resolve(f"{server.url}/x.gguf")


def test_unusable_cache(
    server: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLAMACFFI_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="LLAMACFFI_CACHE"):
        hub.resolve(f"{server.url}/x.gguf")


def test_split_model_fetches_all_parts(server: StandInHub) -> None:
    for i in (1, 2, 3):
        server.files[f"/m/big-0000{i}-of-00003.gguf"] = File(MODEL + bytes([i]))
    second = hashlib.sha256(MODEL + b"\2").hexdigest()
    path = hub.resolve(f"{server.url}/m/big-00002-of-00003.gguf?q=1#sha256={second}")
    assert path.name == "big-00001-of-00003.gguf"
    assert sorted(p.name[4:9] for p in path.parent.glob("*.gguf")) == ["00001", "00002", "00003"]
    assert [m.verified for m in hub.cached()] == [False, True, False]


def test_threads_and_processes_pull_once_each(server: StandInHub, cache: Path) -> None:
    server.files["/x.gguf"] = File(MODEL, cut_after=[1000])
    url = f"{server.url}/x.gguf#sha256={SHA256}"
    code = f"from llamacffi import hub; print(hub.resolve({url!r}).read_bytes()[:4])"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)
    ]
    threads = [threading.Thread(target=hub.resolve, args=(url,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.communicate()[0].strip() for process in processes] == [b"b'GGUF'"] * 2
    assert len(server.gets()) == 2  # the cut one and its resumption
    assert hub.resolve(url, download=False).read_bytes() == MODEL


def test_download_false(server: StandInHub) -> None:
    with pytest.raises(ModelNotFoundError, match=r"not in the cache.*llamacffi pull"):
        hub.resolve(f"{server.url}/x.gguf", download=False)
    assert server.seen == []
