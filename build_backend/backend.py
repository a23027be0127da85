"""The PEP 517 build backend: meson-python, with llama.cpp's source made present first."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import mesonpy
import source
from mesonpy import build_sdist, get_requires_for_build_sdist

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]

ROOT = Path(__file__).parent.parent
Settings = dict[str, Any] | None
CLANG_VERSIONS = range(25, 15, -1)


def prefer_clang() -> None:
    """Build with clang where it is installed and CC does not say otherwise.

    Its code for ggml's CPU kernels is faster than gcc's (docs/benchmarks.md has the figures).
    """
    if sys.platform != "linux" or os.environ.get("CC") or os.environ.get("CXX"):
        return
    for version in CLANG_VERSIONS:
        c, cpp = shutil.which(f"clang-{version}"), shutil.which(f"clang++-{version}")
        if c and cpp:
            os.environ.update(CC=c, CXX=cpp)
            return


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """meson-python's requirements, and those of the way the source will come."""
    return mesonpy.get_requires_for_build_wheel(config_settings) + source.requirements(ROOT)


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """As for a wheel."""
    return mesonpy.get_requires_for_build_editable(config_settings) + source.requirements(ROOT)


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Fetch llama.cpp if need be, then build."""
    source.ensure_source(ROOT)
    prefer_clang()
    return mesonpy.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Fetch llama.cpp if need be, then build in place."""
    source.ensure_source(ROOT)
    prefer_clang()
    return mesonpy.build_editable(wheel_directory, config_settings, metadata_directory)
