"""Drivers and cuBLAS that are missing, too old, or elsewhere: stand-ins for both, no GPU needed.

lazy.cpp of the overlay, which opens them, is compiled by itself; what it says is read in child
processes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "subprojects/packagefiles/llama.cpp/ggml/src/ggml-cuda/lazy.cpp"
TOOLKIT = os.environ.get("CUDA_PATH", "")
COMPILER = shutil.which("c++") or ""

pytestmark = pytest.mark.skipif(
    not (TOOLKIT and COMPILER),
    reason='needs a C++ compiler and the CUDA toolkit: eval "$(ci/tools/cuda)"',
)

DRIVER = """
int cuInit(unsigned flags) { return 100; }  // CUDA_ERROR_NO_DEVICE
int cuDriverGetVersion(int * version) { *version = VERSION; return 0; }
int cuGetProcAddress(const char * name, void ** found, int version, unsigned long long flags) {
    *found = 0;
    return 500;
}
int cuMemUnmap(unsigned long long pointer, unsigned long size) { return (int) size; }
"""
CUBLAS = """
int cublasCreate_v2(void ** handle) { return 0; }
const char * cublasGetStatusString(int status) { return "the stand-in"; }
"""
ASK = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
for function in (library.llamacffi_cuda_problem, library.cublasGetStatusString):
    function.restype = ctypes.c_char_p
print(library.llamacffi_cuda_problem().decode())
print(library.cuMemUnmap(ctypes.c_ulonglong(0), ctypes.c_size_t(42)))
print(library.cublasCreate_v2(ctypes.byref(ctypes.c_void_p())))
print(library.cublasGetStatusString(1).decode())
"""


def compile_stand_in(path: Path, code: str, *arguments: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [COMPILER, "-x", "c", "-", "-shared", "-fPIC", "-w", *arguments, "-o", str(path)]
    subprocess.run(command, input=code, text=True, check=True)
    return path


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site-packages folder with a library of lazy.cpp in llamacffi_cuda/lib."""
    folder = tmp_path_factory.mktemp("packages")
    library = folder / "llamacffi_cuda/lib/lazy.so"
    library.parent.mkdir(parents=True)
    runtime = next(Path(TOOLKIT).glob("targets/*/lib/libcudart_static.a"))
    include = runtime.parent.parent / "include"
    command = [COMPILER, "-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra", f"-I{include}"]
    command += [str(SOURCE), str(runtime), "-lrt", "-lpthread", "-ldl", "-o", str(library)]
    subprocess.run(command, check=True)
    return folder


def ask(packages: Path, **environment: str) -> tuple[str, int, int, str]:
    """The problem, cuMemUnmap(0, 42), cublasCreate's status, the text of a cuBLAS error."""
    library = packages / "llamacffi_cuda/lib/lazy.so"
    made = subprocess.run(
        [sys.executable, "-c", ASK, str(library)],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    problem, unmapped, created, text = made.stdout.splitlines()
    return problem, int(unmapped), int(created), text


def cublas_version() -> str:
    """The major version of the cuBLAS headers."""
    made = subprocess.run(
        [COMPILER, "-E", "-x", "c++", "-", f"-I{next(Path(TOOLKIT).glob('targets/*/include'))}"],
        input="#include <cublas_api.h>\nversion = CUBLAS_VER_MAJOR\n",
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return made.stdout.split()[-1]


def test_without_a_driver_its_functions_say_so(packages: Path, tmp_path: Path) -> None:
    # A file that is no library stands before a driver that this machine may have.
    (tmp_path / "libcuda.so.1").write_text("no library")
    problem, unmapped, _, _ = ask(packages, LD_LIBRARY_PATH=str(tmp_path))
    assert problem.startswith("no CUDA device: there is no driver (")
    assert "libcuda.so.1" in problem
    assert unmapped == 100  # CUDA_ERROR_NO_DEVICE


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (12040, "the driver is for CUDA 12.4, the library needs one for CUDA 13.0 or newer"),
        (99000, "no CUDA-capable device is detected"),
    ],
)
def test_a_driver_that_does_not_help_is_told_of(
    packages: Path, tmp_path: Path, version: int, words: str
) -> None:
    compile_stand_in(tmp_path / "libcuda.so.1", DRIVER, f"-DVERSION={version}")
    problem, unmapped, _, _ = ask(packages, LD_LIBRARY_PATH=str(tmp_path))
    assert problem == f"no CUDA device: {words}"
    assert unmapped == 42  # the driver's own function was called


def test_without_cublas_the_error_says_what_to_install(packages: Path, tmp_path: Path) -> None:
    _, _, created, text = ask(packages, LLAMACFFI_CUBLAS=str(tmp_path / "libcublas.so"))
    assert created == 1  # CUBLAS_STATUS_NOT_INITIALIZED
    assert "this model needs cuBLAS" in text
    assert str(tmp_path) in text
    assert "pip install nvidia-cublas" in text


def test_cublas_of_a_package_is_found_beside_ours(packages: Path) -> None:
    version = cublas_version()
    place = packages / f"nvidia/cu{version}/lib/libcublas.so.{version}"
    compile_stand_in(place, CUBLAS)
    try:
        assert ask(packages)[2:] == (0, "the stand-in")
    finally:
        place.unlink()


def test_a_named_cublas_comes_first(packages: Path, tmp_path: Path) -> None:
    named = compile_stand_in(tmp_path / "mine.so", CUBLAS.replace("the stand-in", "mine"))
    assert ask(packages, LLAMACFFI_CUBLAS=str(named))[2:] == (0, "mine")
