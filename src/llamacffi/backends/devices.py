"""The devices that an opened library can compute on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llamacffi.backends.backend import Device
from llamacffi.backends.software import SOFTWARE
from llamacffi.native.library import Library

__all__ = ["Inventory", "device_pointers", "devices", "inventory", "problem"]

# enum ggml_backend_dev_type, and the number that our patch of ggml-vulkan adds
_TYPES = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel", 4: "meta", 5: SOFTWARE}


@dataclass(frozen=True)
class Inventory:
    """What a library finds on this machine.

    Attributes:
        devices: What it can compute on.
        problem: Why there are no more, in the words of the backend or the driver; "" if nothing
            went wrong.
    """

    devices: tuple[Device, ...]
    problem: str = ""


def device_pointers(library: Library) -> list[Any]:
    """Every `ggml_backend_dev_t` of the library (ggml_backend_dev_get)."""
    return [
        library.lib.ggml_backend_dev_get(index)
        for index in range(library.lib.ggml_backend_dev_count())
    ]


def devices(library: Library) -> tuple[Device, ...]:
    """Describe the devices of the library (ggml_backend_dev_get_props)."""
    ffi, lib = library.ffi, library.lib
    found = []
    for pointer in device_pointers(library):
        free, total = ffi.new("size_t *"), ffi.new("size_t *")
        lib.ggml_backend_dev_memory(pointer, free, total)
        found.append(
            Device(
                name=ffi.string(lib.ggml_backend_dev_name(pointer)).decode("utf-8", "replace"),
                description=ffi.string(lib.ggml_backend_dev_description(pointer)).decode(
                    "utf-8", "replace"
                ),
                type=_TYPES.get(int(lib.ggml_backend_dev_type(pointer)), "unknown"),
                memory_free=int(free[0]),
                memory_total=int(total[0]),
            )
        )
    return tuple(found)


def inventory(library: Library) -> Inventory:
    """The devices of the library, and what went wrong when it looked for them."""
    return Inventory(devices(library), problem(library))


def problem(library: Library) -> str:
    """Why the library finds no device, in the words of its driver or loader; "" where none says so.

    llama.cpp has no such function: our patches let a backend's registry answer to this name
    (ggml_backend_reg_get_proc_address).
    """
    ffi, lib = library.ffi, library.lib
    for index in range(lib.ggml_backend_reg_count()):
        registry = lib.ggml_backend_reg_get(index)
        address = lib.ggml_backend_reg_get_proc_address(registry, b"llamacffi_problem")
        if address:
            words = ffi.string(ffi.cast("const char *(*)(void)", address)())
            if words:
                return str(words.decode("utf-8", "replace"))
    return ""
