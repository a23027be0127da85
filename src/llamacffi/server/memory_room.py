"""How much memory a model will take, and how much there is where it goes."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from llamacffi.backends import choose
from llamacffi.backends.devices import devices
from llamacffi.estimate import estimate_memory
from llamacffi.gguf import GGUFFile
from llamacffi.hub import resolve
from llamacffi.native.library import Library
from llamacffi.server.model_spec import ModelSpec

__all__ = ["MemoryRoom", "Need"]


@dataclass(frozen=True)
class Need:
    """Memory that a model takes.

    Attributes:
        library: Computes it; its devices have the memory.
        on_device: Whether it goes to a GPU, else to the host.
        weights: Bytes of the weights, which on the host are mapped: they count as available there
            while they are in use.
        other: Bytes of the cache and of working space.
    """

    library: Library
    on_device: bool
    weights: int
    other: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.other


class MemoryRoom:
    """Measures memory; estimates are rough, and made from a file's header."""

    def needed(self, spec: ModelSpec) -> Need:
        """What a model will take; fetches its file if it has to be fetched.

        Raises: As `Model`, for a file that cannot be had or read.
        """
        library = choose(spec.backend)
        with GGUFFile(library, resolve(spec.model)) as header:
            estimate = estimate_memory(header, spec.n_ctx)
        on_device = spec.n_gpu_layers != 0 and bool(_gpus(library))
        return Need(library, on_device, estimate.weights, estimate.cache + estimate.compute)

    def available(self, need: Need) -> int:
        """Bytes that are free where a model would go."""
        if need.on_device:
            return sum(_gpus(need.library))
        return int(psutil.virtual_memory().available)


def _gpus(library: Library) -> list[int]:
    return [device.memory_free for device in devices(library) if device.type in ("gpu", "igpu")]
