"""The backends of this distribution: the CPU, and on macOS Metal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from llamacffi.backends.backend import Backend
from llamacffi.hookspecs import hookimpl

__all__ = ["register_backends"]

_LIBRARY = re.compile(r"libllama-([a-z0-9]+)(-.*)?\.(so|dylib|dll)")


def _files() -> Iterable[Path]:
    folder = Path(__file__).parent.parent / "lib"
    if folder.is_dir():
        return folder.iterdir()
    # An editable install gives a view over the build folder, with real files behind it.
    import importlib.resources

    view = importlib.resources.files("llamacffi") / "lib"
    return [Path(str(entry)) for entry in view.iterdir()] if view.is_dir() else []


def _shipped(backend: str) -> Callable[[], Iterable[Path]]:
    def find() -> Iterable[Path]:
        return [
            entry
            for entry in _files()
            if (match := _LIBRARY.fullmatch(entry.name)) and match.group(1) == backend
        ]

    return find


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    """Register what ships with llamacffi itself."""
    register(
        Backend(
            "cpu",
            _shipped("cpu"),
            remedy="reinstall llamacffi; a build with -Dcpu_variants=x86-64-v2 runs on any x86-64.",
        )
    )
    register(
        Backend(
            "metal",
            _shipped("metal"),
            priority=100,
            device_types=("gpu", "igpu"),
            remedy="run on macOS, where llamacffi brings Metal along; elsewhere choose another.",
        )
    )
