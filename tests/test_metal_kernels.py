"""The embedded Metal kernels, for which no macOS is needed: whole sources, the right symbols."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

OVERLAY = ROOT / "subprojects/packagefiles/llama.cpp"
EMBED = OVERLAY / "ggml/src/ggml-metal/embed.py"


@pytest.fixture(scope="module")
def metal(upstream: Path) -> Path:
    return upstream / "ggml/src/ggml-metal"


def kernel_names(metal: Path) -> list[str]:
    """Those that the Meson file embeds."""
    command = [
        sys.executable,
        OVERLAY / "describe.py",
        "metal-kernels",
        metal / "ggml-metal-device.m",
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def embed(kernel: Path, into: Path) -> subprocess.CompletedProcess[str]:
    outputs = [into / f"{kernel.stem}.{suffix}" for suffix in ("metal", "s", "d")]
    command = [sys.executable, EMBED, kernel, *outputs]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_kernels_are_those_of_upstream_s_build(metal: Path) -> None:
    listed = re.findall(r"kernels/(\w+)\.metal\s*\n", (metal / "CMakeLists.txt").read_text())
    assert kernel_names(metal) == listed
    assert len(listed) > 30


def test_each_kernel_stands_alone_with_every_header_once(metal: Path, tmp_path: Path) -> None:
    for name in kernel_names(metal):
        kernel = metal / f"kernels/{name}.metal"
        assert embed(kernel, tmp_path).returncode == 0, name
        text = (tmp_path / f"{name}.metal").read_text()
        assert not re.search(r'^\s*#\s*include\s+"', text, re.M), name
        assert "__embed_" not in text, name
        assert "#pragma once" not in text, name
        assert text.count("using namespace metal;") == 1, name  # common.h
        assert text.count("#define N_SG_Q4_0 ") == 1, name  # ggml-metal-impl.h
        wants_blocks = "dequantize.h" in kernel.read_text()
        assert text.count("} block_q4_0;") == wants_blocks, name  # ggml-common.h
        own = [line for line in kernel.read_text().splitlines() if not line.startswith("#include")]
        assert text.endswith("\n".join(own) + "\n"), name
        depends = (tmp_path / f"{name}.d").read_text()
        assert depends.startswith(f"{(tmp_path / name).as_posix()}.metal: ")
        assert "ggml-metal-impl.h" in depends


def test_the_text_lies_between_the_symbols_of_the_device(metal: Path, tmp_path: Path) -> None:
    clang = shutil.which("clang") or shutil.which("clang-16")
    nm = shutil.which("llvm-nm") or shutil.which("llvm-nm-16")
    if clang is None or nm is None:
        pytest.skip("assembling for macOS takes clang and llvm-nm")
    embed(metal / "kernels/mul_mm.metal", tmp_path)
    command = [clang, "--target=arm64-apple-macos13", "-c", "mul_mm.s", "-o", "mul_mm.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    listed = subprocess.run([nm, tmp_path / "mul_mm.o"], check=True, capture_output=True, text=True)
    places = {name: int(place, 16) for place, _, name in map(str.split, listed.stdout.splitlines())}
    length = places["_ggml_metallib_mul_mm_end"] - places["_ggml_metallib_mul_mm_start"]
    assert length == (tmp_path / "mul_mm.metal").stat().st_size


def test_a_header_that_is_nowhere_stops_the_build(tmp_path: Path) -> None:
    kernel = tmp_path / "ggml/metal/kernels/new.metal"
    kernel.parent.mkdir(parents=True)
    kernel.write_text('#include "moved.h"\n')
    result = embed(kernel, tmp_path)
    assert result.returncode == 1
    assert "new.metal includes 'moved.h', which is nowhere" in result.stderr
