"""Models by `hf:`, against a stand-in on the loopback interface."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llamacffi import hub
from llamacffi.errors import DownloadError
from tests.stand_in_hub import (
    CHANGED,
    MODEL,
    SHA256,
    File,
    StandInHub,
    empty_cache,
    hugging_face,
    started,
)

cache = pytest.fixture(autouse=True)(empty_cache)
server = pytest.fixture(started)
hf = pytest.fixture(hugging_face)


def test_hub_file_is_verified_by_its_etag(hf: StandInHub, cache: Path) -> None:
    hf.add_model("o/r", "sub/x.gguf", MODEL).cut_after = [1000]
    path = hub.resolve("hf:o/r/sub/x.gguf")
    assert path.read_bytes() == MODEL
    assert cache in path.parents
    assert hub.cached()[0].verified
    assert hf.gets()[1].headers["range"] == "bytes=1000-"
    count = len(hf.seen)
    assert hub.resolve("hf:o/r/sub/x.gguf") == path
    assert len(hf.seen) == count


def test_hub_file_with_another_content_is_refused(hf: StandInHub) -> None:
    hf.add_model("o/r", "x.gguf", MODEL).body = CHANGED
    with pytest.raises(DownloadError, match="wrong hash"):
        hub.resolve("hf:o/r/x.gguf")
    hf.add_model("o/r", "x.gguf", MODEL).body = MODEL + b"more"
    with pytest.raises(DownloadError, match="wrong length: 4100 bytes were expected"):
        hub.resolve("hf:o/r/x.gguf")
    with pytest.raises(DownloadError, match="the hub announces"):
        hub.resolve("hf:o/r/x.gguf", sha256="0" * 64)


def test_hub_revision_and_split(hf: StandInHub) -> None:
    for i in (1, 2):
        hf.add_model("o/r", f"m-0000{i}-of-00002.gguf", MODEL + bytes([i]), "refs%2Fpr%2F1")
    path = hub.resolve("hf:o/r@refs%2Fpr%2F1/m-00001-of-00002.gguf")
    assert path.read_bytes() == MODEL + b"\1"
    assert [m.reference for m in hub.cached()] == [
        f"hf:o/r@refs%2Fpr%2F1/m-0000{i}-of-00002.gguf" for i in (1, 2)
    ]


def test_hub_token_goes_to_the_endpoint_only(
    hf: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandInHub().running() as cdn:
        cdn.files["/blob"] = File(MODEL)
        file = hf.add_model("o/r", "x.gguf", MODEL)
        file.token, file.status, file.location = "hf_secret", 302, f"{cdn.url}/blob"
        with pytest.raises(DownloadError, match="HF_TOKEN"):
            hub.resolve("hf:o/r/x.gguf")
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        assert hub.resolve("hf:o/r/x.gguf").read_bytes() == MODEL
        assert "authorization" in hf.gets()[0].headers
        assert all("authorization" not in request.headers for request in cdn.seen)


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("EntryNotFound", 404, "no such file"),
        ("RevisionNotFound", 404, "no such revision"),
        ("RepoNotFound", 404, "no such repository"),
        ("GatedRepo", 403, "gated"),
        (None, 500, "HTTP 500"),
    ],
)
def test_hub_refusals(hf: StandInHub, code: str | None, status: int, message: str) -> None:
    hf.files["/o/r/resolve/main/x.gguf"] = File(b"", status=status, error_code=code)
    with pytest.raises(DownloadError, match=message) as caught:
        hub.resolve("hf:o/r/x.gguf")
    assert "hf:o/r/x.gguf" in str(caught.value)


def test_hub_package_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DownloadError, match=r"pip install llamacffi\[hub\]"):
        hub.resolve("hf:o/r/x.gguf")


def test_endpoint_must_be_https(hf: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://example.invalid")
    with pytest.raises(DownloadError, match="use https"):
        hub.resolve("hf:o/r/x.gguf")


def test_huggingface_hubs_own_cache_is_used(hf: StandInHub, tmp_path: Path) -> None:
    repo = tmp_path / "hf" / "models--o--r"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("c0ffee")
    snapshot = repo / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "x.gguf").write_bytes(MODEL)
    assert hub.resolve("hf:o/r/x.gguf", download=False, sha256=SHA256) == snapshot / "x.gguf"
    assert hf.seen == []
