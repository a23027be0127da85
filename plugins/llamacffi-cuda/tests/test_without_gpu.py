"""The installed CUDA library without a GPU: it opens, says why it cannot be used, harms nobody."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import llamacffi
from llamacffi.backends import BackendReport, choose
from llamacffi.errors import BackendUnavailableError

ROOT = Path(__file__).resolve().parents[3]
PROMPT = "The capital of France is"
GENERATE = f"""
import json, llamacffi
with llamacffi.Llama("smollm2", n_ctx=64, n_gpu_layers=0) as llama:
    made = llama.create_completion({PROMPT!r}, max_tokens=12, temperature=0)
print(json.dumps([str(llama.model.library.path), made["choices"][0]["text"]]))
"""
TIMED = """
import sys, time
from pathlib import Path
from llamacffi.backends.devices import devices, problem
from llamacffi.native import _llama
from llamacffi.native.library import open_library
start = time.perf_counter()
library = open_library(Path(sys.argv[1]))
devices(library), problem(library)
print(time.perf_counter() - start)
"""


def library_path(report: BackendReport) -> Path:
    assert report.installed
    return report.libraries[0].path


def test_the_report_has_the_reason_and_the_mend(no_gpu: BackendReport) -> None:
    assert no_gpu.installed
    assert "no CUDA device: " in (no_gpu.reason or "")
    assert "driver" in (no_gpu.remedy or "")
    (library,) = no_gpu.libraries
    assert [device.type for device in library.devices] == ["cpu"]


def test_a_child_process_tells_the_same(no_gpu: BackendReport) -> None:
    probed = next(report for report in llamacffi.backends(probe=True) if report.name == "cuda")
    assert probed.reason == no_gpu.reason


def test_asked_for_by_name_it_is_refused(no_gpu: BackendReport) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        llamacffi.Model("smollm2", backend="cuda")
    message = str(caught.value)
    assert no_gpu.reason is not None
    assert no_gpu.reason in message
    assert "To use it: install the driver" in message
    assert "cpu (usable)" in message


def test_auto_passes_over_it_and_says_so(
    no_gpu: BackendReport, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "llamacffi.backends"):
        assert choose("auto").path != library_path(no_gpu)
    assert f"Passed over cuda: {no_gpu.reason}" in caplog.text


def test_it_warns_of_nothing(no_gpu: BackendReport) -> None:
    # Where another backend is used, a missing GPU is nothing to be warned of.
    command = [sys.executable, "-c", "import llamacffi; llamacffi.Model('smollm2').close()"]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    assert child.stderr == ""


def test_it_opens_within_a_second(report: BackendReport) -> None:
    command = [sys.executable, "-c", TIMED, str(library_path(report))]
    times = [float(subprocess.check_output(command, text=True)) for _ in range(2)]
    assert min(times) < 1


def test_its_cpu_part_generates_what_the_cpu_library_does(report: BackendReport) -> None:
    with llamacffi.Llama("smollm2", backend="cpu", n_ctx=64) as llama:
        made = llama.create_completion(PROMPT, max_tokens=12, temperature=0)
    path = library_path(report)
    environment = os.environ | {"LLAMACFFI_LIBRARY": str(path)}
    used, text = json.loads(
        subprocess.check_output([sys.executable, "-c", GENERATE], env=environment, text=True)
    )
    assert Path(used) == path.resolve()
    assert text == made["choices"][0]["text"]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) is not here")
def test_it_needs_neither_driver_nor_cublas_to_load(report: BackendReport) -> None:
    listed = subprocess.check_output(["readelf", "-d", library_path(report)], text=True)
    needed = [line for line in listed.splitlines() if "(NEEDED)" in line]
    assert needed
    assert not [line for line in needed if "libcu" in line or "libnv" in line]


def test_its_gpu_code_is_for_the_architectures_it_was_built_for(report: BackendReport) -> None:
    build = ROOT / os.environ.get("LLAMACFFI_BUILD_DIR", "build-cuda")
    if not (build / "meson-info").is_dir():
        pytest.skip(f"the build folder {build.name} is not here, which knows the architectures")
    checked = subprocess.run(
        [sys.executable, ROOT / "ci/cuda-objects", build], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert " 0 wrong" in checked.stdout
