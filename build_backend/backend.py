"""The PEP 517 build backend: meson-python, with llama.cpp's source made present first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mesonpy
import source
from compiler import prefer_clang
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
