"""The BLAS backend: `ci/backend blas` builds it and runs this; the ordinary suite has it not."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import llamacffi
from llamacffi import Model
from llamacffi.backends import builtin, choose
from llamacffi.errors import BackendUnavailableError
from tests.conftest import N_THREADS

TEXT = "The old ship sailed over the sea, and nobody knew where it would go next. " * 8
LEAST = 32  # ggml-blas takes products with at least so many rows
linux = pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate, not OpenBLAS")


@pytest.fixture(scope="module")
def on_blas(model_path: Path) -> Iterator[Model]:
    with Model(model_path, backend="blas") as loaded:
        yield loaded


def logits(model: Model, n_tokens: int, n_threads: int = N_THREADS) -> np.ndarray:
    tokens = model.vocab.tokenize(TEXT)[:n_tokens]
    assert len(tokens) == n_tokens
    with model.context(n_ctx=512, n_threads=n_threads) as context:
        context.decode_tokens(tokens)
        return context.logits().copy()


def greedy(model: Model, n_tokens: int) -> list[int]:
    tokens = model.vocab.tokenize(TEXT)
    found: list[int] = []
    with model.context(n_ctx=512, n_threads=N_THREADS) as context:
        context.decode_tokens(tokens)
        while len(found) < n_tokens:
            found.append(int(context.logits().argmax()))
            context.decode_token(found[-1], len(tokens) + len(found) - 1)
    return found


def test_it_is_there_with_its_device_and_auto_leaves_it_alone() -> None:
    reports = {report.name: report for report in llamacffi.backends()}
    names = list(reports)
    assert names.index("cpu") < names.index("blas")
    assert reports["blas"].usable, reports["blas"]
    assert reports["blas"].library is not None
    types = {device.name: device.type for device in reports["blas"].library.devices}
    assert types["BLAS"] == "accel"
    assert choose("auto") is not choose("blas")


def test_long_prompts_go_through_it_and_short_ones_do_not(model: Model, on_blas: Model) -> None:
    short = LEAST - 1
    np.testing.assert_array_equal(logits(on_blas, short), logits(model, short))
    by_blas, by_cpu = logits(on_blas, 128), logits(model, 128)
    assert (by_blas != by_cpu).any()
    # The CPU rounds a prompt's activations to 8 bits for quantised weights, BLAS does not.
    assert np.corrcoef(by_blas, by_cpu)[0, 1] > 0.999


def test_the_text_is_the_cpu_s(model: Model, on_blas: Model) -> None:
    assert greedy(on_blas, 24) == greedy(model, 24)


def test_both_at_once_as_each_alone(model: Model, on_blas: Model) -> None:
    alone = greedy(model, 8), greedy(on_blas, 8)
    with ThreadPoolExecutor(2) as pool:
        together = tuple(pool.map(greedy, (model, on_blas), (8, 8)))
    assert together == alone


@linux
def test_openblas_computes_with_the_context_s_threads(on_blas: Model) -> None:
    openblas = ctypes.CDLL("libopenblas.so.0")
    for n_threads in (1, 2):
        logits(on_blas, 64, n_threads)
        assert openblas.openblas_get_num_threads() == min(n_threads, os.cpu_count() or 1)


@linux
def test_a_fork_after_it_was_used_can_use_it_too(model_path: Path) -> None:
    script = """if True:
        import os, sys
        from llamacffi import Model
        def decode():
            with Model(sys.argv[1], backend="blas") as model:
                with model.context(n_ctx=128, n_threads=2) as context:
                    context.decode_tokens(list(range(1000, 1064)))
                    return int(context.logits().argmax())
        expected = decode()
        child = os.fork()
        if child == 0:
            os._exit(decode() != expected)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    command = [sys.executable, "-c", script, model_path]
    assert subprocess.run(command, timeout=120).returncode == 0


@linux
def test_without_openblas_the_report_has_the_reason_and_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = choose("blas").path
    orphan = tmp_path / real.name
    shutil.copy(real, orphan)
    shutil.copy(real.with_suffix(".json"), tmp_path)
    change = ["patchelf", "--replace-needed", "libopenblas.so.0", "libgone.so.0", orphan]
    subprocess.run(change, check=True)
    libraries_of = builtin.libraries_of

    def moved(package: str, backend: str) -> Callable[[], Iterable[Path]]:
        return (lambda: [orphan]) if backend == "blas" else libraries_of(package, backend)

    monkeypatch.setattr(builtin, "libraries_of", moved)
    report = next(report for report in llamacffi.backends() if report.name == "blas")
    assert report.installed
    assert not report.usable
    assert "libgone.so.0" in (report.reason or "")
    with pytest.raises(BackendUnavailableError, match=r"libgone\.so\.0.*libopenblas0"):
        choose("blas")
    assert choose("auto").path.name.startswith("libllama-cpu")
