"""What a backend is, and what is reported of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Backend", "BackendReport", "Device", "LibraryReport"]

_GIB = 2**30


@dataclass(frozen=True)
class Backend:
    """One way to run models: a name, and the libraries that implement it.

    Attributes:
        name: What users write: `backend="vulkan"`. Lower case.
        find: Returns the candidate library files; called when backends are looked up.
        priority: `backend="auto"` tries higher ones first. The CPU has 0, GPUs 100 and more
            (docs/plugins.md has the list).
        device_types: A device of one of these types ("gpu", "igpu", "accel") must be there for
            the backend to be usable; empty for none, as on the CPU.
        remedy: What the user can do when it is unusable; shown in errors and reports.
    """

    name: str
    find: Callable[[], Iterable[Path]]
    priority: int = 0
    device_types: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class Device:
    """A device that an opened library can compute on (ggml_backend_dev_get_props).

    Attributes:
        name: Short name for `Model(devices=[...])`, e.g. "CPU" or "Vulkan0".
        description: The vendor's name of it.
        type: "cpu", "gpu", "igpu" (integrated), "accel", "meta", or "software" for a software
            renderer, which computes only what names it.
        memory_free: Bytes.
        memory_total: Bytes.
    """

    name: str
    description: str
    type: str
    memory_free: int
    memory_total: int

    def __str__(self) -> str:
        memory = f"{self.memory_free / _GIB:.1f} of {self.memory_total / _GIB:.1f} GiB free"
        return f"{self.name} ({self.description}, {self.type}, {memory})"


@dataclass(frozen=True)
class LibraryReport:
    """One candidate library of a backend.

    Attributes:
        path: The file.
        variant: The instruction set of its CPU part; "" where unknown.
        usable: Whether it can be used on this machine.
        reason: Why not; None if it can.
        devices: What it can compute on; empty if it was not opened.
        mismatch: Whether the reason is that it was built from other sources than this package.
    """

    path: Path
    variant: str
    usable: bool
    reason: str | None = None
    devices: tuple[Device, ...] = ()
    mismatch: bool = False


@dataclass(frozen=True)
class BackendReport:
    """One backend, as found on this machine.

    Attributes:
        name: The backend's name.
        installed: Whether any library of it is there, or a package that should have brought one.
        usable: Whether it would work if asked for.
        reason: Why not; None if it would.
        remedy: What to do about it; None if nothing is needed.
        library: The library that would be used; None if none would.
        libraries: Every candidate, best first.
    """

    name: str
    installed: bool
    usable: bool
    reason: str | None = None
    remedy: str | None = None
    library: LibraryReport | None = None
    libraries: tuple[LibraryReport, ...] = ()

    def __str__(self) -> str:
        if not self.usable:
            state = "unusable" if self.installed else "not installed"
            mend = f" To use it: {self.remedy}" if self.remedy else ""
            return f"{self.name}: {state} ({self.reason}).{mend}"
        assert self.library is not None
        devices = ", ".join(map(str, self.library.devices))
        variant = f", variant {self.library.variant}" if self.library.variant else ""
        return f"{self.name}: usable{variant}; devices: {devices or 'none'}"
