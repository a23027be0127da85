"""The CUDA backend: libraries, and the hook that offers them to llamacffi."""

from __future__ import annotations

from collections.abc import Callable

from llamacffi import Backend, hookimpl
from llamacffi.backends import libraries_of

__all__ = ["register_backends"]


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    """Register the backend "cuda"."""
    register(
        Backend(
            "cuda",
            libraries_of(__name__, "cuda"),
            priority=300,
            device_types=("gpu", "igpu"),
            remedy="install the driver of the NVIDIA GPU, for CUDA 13 or later (580 and newer); "
            "`nvidia-smi` shows which one runs.",
        )
    )
