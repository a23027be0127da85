"""The backends of this distribution: the CPU, and on macOS Metal."""

from __future__ import annotations

from collections.abc import Callable

from llamacffi.backends.backend import Backend
from llamacffi.backends.files import libraries_of
from llamacffi.hookspecs import hookimpl

__all__ = ["register_backends"]


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    """Register what ships with llamacffi itself."""
    register(
        Backend(
            "cpu",
            libraries_of("llamacffi", "cpu"),
            remedy="reinstall llamacffi; a build with -Dcpu_variants=x86-64-v2 runs on any x86-64.",
        )
    )
    register(
        Backend(
            "metal",
            libraries_of("llamacffi", "metal"),
            priority=200,
            device_types=("gpu", "igpu"),
            remedy="run on macOS, where llamacffi brings Metal along; elsewhere choose another.",
        )
    )
