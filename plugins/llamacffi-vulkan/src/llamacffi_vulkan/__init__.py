"""The Vulkan backend: libraries, and the hook that offers them to llamacffi."""

from __future__ import annotations

from collections.abc import Callable

from llamacffi import Backend, hookimpl
from llamacffi.backends import libraries_of

__all__ = ["register_backends"]


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    """Register the backend "vulkan"."""
    register(
        Backend(
            "vulkan",
            libraries_of(__name__, "vulkan"),
            priority=100,
            device_types=("gpu", "igpu"),
            remedy="install the GPU's Vulkan driver and the loader libvulkan.so.1 (Debian: "
            "mesa-vulkan-drivers or the vendor's, libvulkan1); `vulkaninfo --summary` lists GPUs.",
        )
    )
