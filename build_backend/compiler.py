"""Which compiler builds the libraries, where the user does not say."""

from __future__ import annotations

import os
import shutil
import sys

__all__ = ["prefer_clang"]

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
            # Meson looks for ccache by itself only where CC is not set.
            cache = "ccache " if shutil.which("ccache") else ""
            os.environ.update(CC=cache + c, CXX=cache + cpp)
            return
