"""The project's version, from pyproject.toml.

Usage: python build_backend/version.py      # for meson.build
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["version"]


def version() -> str:
    """The version that is written in the root's pyproject.toml, and nowhere else."""
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(r'^version = "([^"]+)"', text, flags=re.MULTILINE)
    if match is None:
        raise SystemExit("pyproject.toml has no version")
    return match.group(1)


if __name__ == "__main__":
    print(version())
