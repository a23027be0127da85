"""What a model and its context take of each device's memory, and whether there is so much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["DeviceMemory", "MemoryPlan", "in_units"]

COLUMNS = ("device", "total", "free", "needed", "weights", "cache", "compute")


@dataclass(frozen=True)
class DeviceMemory:
    """What is to be on one device, in bytes.

    Attributes:
        name: The device, e.g. "Vulkan0"; "CPU" for the host's memory.
        description: What it is.
        total: Its memory; 0 where it does not say.
        free: What is free of it before anything is loaded.
        weights: What the model's tensors take.
        cache: What the context remembers the text in.
        compute: Working space of one batch.
    """

    name: str
    description: str
    total: int
    free: int
    weights: int
    cache: int
    compute: int

    @property
    def needed(self) -> int:
        """All that is to be there."""
        return self.weights + self.cache + self.compute

    @property
    def fits(self) -> bool:
        """Whether it is there; nobody knows of a device that does not say what it has."""
        return self.needed <= self.free or not self.total


@dataclass(frozen=True)
class MemoryPlan:
    """What goes where; made without taking the memory.

    Attributes:
        devices: The devices with the model's layers, in llama.cpp's order; none on a CPU alone.
        host: The host's memory, with the rest of the layers.
        n_gpu_layers: Layers on the devices, the output layer among them.
        n_layers: Layers of the model, the output layer among them.
        n_ctx: Context length that there is room for, in tokens.
        n_ctx_train: Context length that the model was trained for.
        layers: Of n_gpu_layers, how many are on each device; empty where llama.cpp divides them.
        buffer_overrides: Tensors of those layers that are elsewhere (of mixtures of experts), as
            `Model(buffer_overrides=...)`.
    """

    devices: tuple[DeviceMemory, ...]
    host: DeviceMemory
    n_gpu_layers: int
    n_layers: int
    n_ctx: int
    n_ctx_train: int
    layers: Sequence[int] = ()
    buffer_overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def places(self) -> tuple[DeviceMemory, ...]:
        """The devices, and the host behind them."""
        return (*self.devices, self.host)

    @property
    def fits(self) -> bool:
        """Whether every device has what is to be on it."""
        return all(place.fits for place in self.places)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        places = [asdict(place) | {"needed": place.needed} for place in self.places]
        facts = {name: value for name, value in vars(self).items() if name != "host"}
        return facts | {"devices": places, "fits": self.fits}

    def __str__(self) -> str:
        rows = [list(COLUMNS)] + [
            [place.name, *(in_units(getattr(place, name)) for name in COLUMNS[1:])]
            for place in self.places
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ]
        where = f"{self.n_gpu_layers} of {self.n_layers} layers on devices"
        if self.layers:
            where += f" ({' + '.join(map(str, self.layers))})"
        if self.buffer_overrides:
            where += f", tensors of {len(self.buffer_overrides)} of them elsewhere"
        short = [place.name for place in self.places if not place.fits]
        verdict = f"too little memory on {', '.join(short)}" if short else "fits"
        lines.append(f"{where}; n_ctx {self.n_ctx} (trained for {self.n_ctx_train}); {verdict}")
        return "\n".join(lines)


def in_units(count: int) -> str:
    """Bytes in a unit that keeps the number short, e.g. "93.7 MiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
