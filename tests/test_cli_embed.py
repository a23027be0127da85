"""`llamacffi embed`: texts as arguments or lines, and each format of the output."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from openai.types import CreateEmbeddingResponse

from llamacffi import Llama
from llamacffi.cli import main
from tests.tiny_models import write_model

TEXTS = ["hello", "once upon a time"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("embed") / "bert.gguf", "bert"))


@pytest.fixture(scope="module")
def wanted(path: str) -> np.ndarray:
    with Llama(path, backend="cpu", embedding=True, n_ctx=64, n_threads=1) as llama:
        return np.stack(llama.embed(TEXTS, normalize=True))


def run(*arguments: str, stdin: str | None = None) -> bytes:
    result = CliRunner().invoke(main, ["embed", *arguments, "-t", "1", "-c", "64"], input=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout_bytes


def test_lines(path: str, wanted: np.ndarray) -> None:
    for found in (run(path, *TEXTS), run(path, stdin="hello\n\nonce upon a time\n")):
        rows = [json.loads(line) for line in found.splitlines()]
        assert np.allclose(rows, wanted, atol=1e-3)


def test_other_formats(path: str, wanted: np.ndarray, tmp_path: Path) -> None:
    answer = CreateEmbeddingResponse.model_validate_json(run(path, *TEXTS, "--format", "openai"))
    assert np.allclose([entry.embedding for entry in answer.data], wanted, atol=1e-3)
    matrix = np.load(io.BytesIO(run(path, *TEXTS, "--format", "npy")))
    assert matrix.dtype == np.float32
    assert np.allclose(matrix, wanted, atol=1e-3)
    file = tmp_path / "vectors.npy"
    assert run(path, *TEXTS, "--format", "npy", "-o", str(file), "--pooling", "none") == b""
    assert np.load(file).shape[0] > len(TEXTS)


def test_options(path: str, wanted: np.ndarray) -> None:
    [row] = [json.loads(line) for line in run(path, "hello", "--dimensions", "4").splitlines()]
    assert np.allclose(row, wanted[0, :4] / np.linalg.norm(wanted[0, :4]), atol=1e-3)
    found = run(path, "hello", "--normalize", "taxicab")
    assert np.abs(json.loads(found)).sum() == pytest.approx(1, abs=1e-4)
    long = "a " * 200
    assert run(path, long, "--truncate", "end") != run(path, long + "hello", "--truncate", "start")


def test_mistakes(path: str) -> None:
    for arguments in (["a " * 200], ["hello", "--dimensions", "1000"], [""]):
        result = CliRunner().invoke(main, ["embed", path, "-t", "1", "-c", "64", *arguments])
        assert result.exit_code == 1
        assert result.output.startswith("Error: ")
