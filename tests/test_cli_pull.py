"""The command `llamacffi pull`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from llamacffi.cli.pull import pull
from llamacffi.errors import DownloadError
from tests.stand_in_hub import (
    MODEL,
    SHA256,
    File,
    StandInHub,
    empty_cache,
    started,
)

cache = pytest.fixture(autouse=True)(empty_cache)
server = pytest.fixture(started)


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
