"""References to models: paths, aliases and malformed ones, refused before any request."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacffi import hub
from llamacffi.errors import DownloadError, ModelNotFoundError
from llamacffi.hub import references
from tests.stand_in_hub import (
    MODEL,
    SHA256,
    StandInHub,
    empty_cache,
    hugging_face,
    started,
)

cache = pytest.fixture(autouse=True)(empty_cache)
server = pytest.fixture(started)
hf = pytest.fixture(hugging_face)


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
