"""Software renderers: devices that are drivers without hardware, slower than the CPU backend.

They compute only what names them: in `devices`, or, for a whole process, in the variable by which
ggml-vulkan chooses its devices. The library lists them (our patch vulkan-software-renderers.diff).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence

from llamacffi.backends.backend import Device

__all__ = [
    "SOFTWARE",
    "VISIBLE_DEVICES_VARIABLE",
    "Names",
    "computing",
    "default_devices",
    "named",
    "renderers",
]

SOFTWARE = "software"
VISIBLE_DEVICES_VARIABLE = "GGML_VK_VISIBLE_DEVICES"
Names = Collection[str] | None


def renderers(found: Iterable[Device]) -> list[Device]:
    """The software renderers among devices."""
    return [device for device in found if device.type == SOFTWARE]


def named(found: Iterable[Device], names: Names) -> list[Device]:
    """The software renderers among devices that somebody asks for.

    Args:
        found: The devices of a library; where the variable is set, it lists no others.
        names: Devices asked for; None where nobody may be asking, not even by the variable.
    """
    if names is None:
        return []
    by_variable = bool(os.environ.get(VISIBLE_DEVICES_VARIABLE))
    return [device for device in renderers(found) if by_variable or device.name in names]


def default_devices(found: Sequence[Device], split_mode: str) -> list[str] | None:
    """What a model uses that names no devices; None for what llama.cpp chooses.

    llama.cpp passes over software renderers, except where it splits tensors.
    """
    if not renderers(found):
        return None
    asked = named(found, ())
    if not asked and split_mode != "tensor":
        return None
    return [device.name for device in found if device.type in ("gpu", "igpu") or device in asked]


def computing(
    found: Sequence[Device], names: Sequence[str] | None = None, split_mode: str = "layer"
) -> list[Device]:
    """The devices beside the CPU that a model computes on.

    Args:
        found: Those of its library.
        names: Those that it names; None if it names none.
        split_mode: How it is split.
    """
    names = default_devices(found, split_mode) if names is None else names
    if names is None:
        return [device for device in found if device.type in ("gpu", "igpu")]
    return [device for device in found if device.name in names and device.type != "cpu"]
