"""ci/cuda-objects finds what nvcc put into an object, and refuses what was not asked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "ci/cuda-objects"
KERNEL = "__global__ void add(float * x) { *x += 1; }"
CODE = [
    "arch=compute_75,code=compute_75",
    "arch=compute_86,code=sm_86",
    "arch=compute_90,code=[compute_90,sm_90]",
    "arch=compute_120a,code=sm_120a",
]

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not here")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    (folder / "add.cu").write_text(KERNEL)
    output = folder / "add.cu.o"
    options = [f"-gencode={code}" for code in CODE]
    subprocess.run(["nvcc", "-c", *options, folder / "add.cu", "-o", output], check=True)
    return output


def check(compiled: Path, expected: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "--expect", expected, compiled]
    return subprocess.run(command, capture_output=True, text=True)


def test_what_was_asked_for_passes(compiled: Path) -> None:
    checked = check(compiled, "75-virtual,86-real,90,120a-real")
    assert checked.returncode == 0
    assert checked.stdout == "1 files, 1 containers in objects, 0 wrong\n"


@pytest.mark.parametrize(
    "expected",
    [
        "86-real",
        "75-virtual,86-real,90,120a-real,89-real",
        "75-real,86-real,90,120a-real",
        "75-virtual,86-real,90,120-real",
    ],
)
def test_anything_else_is_refused(compiled: Path, expected: str) -> None:
    checked = check(compiled, expected)
    assert checked.returncode == 1
    assert "compute_75, compute_90, sm_120a, sm_86, sm_90, expected " in checked.stdout
