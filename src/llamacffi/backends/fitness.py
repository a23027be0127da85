"""Whether a library that opens is of use here: it depends on the devices that it finds."""

from __future__ import annotations

from collections.abc import Collection

from llamacffi.backends.devices import Inventory
from llamacffi.backends.software import VISIBLE_DEVICES_VARIABLE, Names, named, renderers

__all__ = ["is_integrated", "objection"]


def objection(found: Inventory, needed: Collection[str], names: Names) -> str | None:
    """Why a library is of no use; None if it is.

    Args:
        found: Its devices.
        needed: The types of devices of which one must be there; empty for none.
        names: The devices that the model asks for; see `software.named`.
    """
    kinds = {device.type for device in found.devices}
    if not needed or kinds.intersection(needed) or named(found.devices, names):
        return None
    lacking = f"the library works, but finds no device of type {' or '.join(sorted(needed))}"
    software = renderers(found.devices)
    if software:
        which = " and ".join(f"{device.name} ({device.description})" for device in software)
        return (
            f"{lacking}, only a software renderer, slower than the CPU and used only if asked for "
            f'by name: {which}, with devices=["{software[0].name}"] or {VISIBLE_DEVICES_VARIABLE}'
        )
    return f"{lacking}: {found.problem}" if found.problem else lacking


def is_integrated(found: Collection[str]) -> bool:
    """Whether the best of these types of devices is a GPU that shares the CPU's memory."""
    return "igpu" in found and not {"gpu", "accel"}.intersection(found)
