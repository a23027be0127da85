"""The backends of this distribution: the CPU, on macOS Metal, and BLAS where it is built."""

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
            "blas",
            libraries_of("llamacffi", "blas"),
            # Behind the CPU, whose own kernels are faster for nearly all models (docs/backends.md).
            priority=-10,
            device_types=("accel",),
            remedy="build llamacffi with -Dbackends=cpu,blas (docs/building.md), and install "
            "OpenBLAS: on Debian, apt-get install libopenblas0.",
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
