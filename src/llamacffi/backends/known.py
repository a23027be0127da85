"""Backends that exist but are not in this distribution: where each one comes from.

Only for messages: a backend is usable when a plugin registers it, whatever this table says.
"""

from __future__ import annotations

__all__ = ["REMEDIES"]

REMEDIES = {
    "vulkan": "pip install llamacffi-vulkan (not released yet), and a Vulkan driver for the GPU.",
    "cuda": "pip install llamacffi-cuda (not released yet), and the driver of an NVIDIA GPU.",
}
