"""How much of the host's memory this process may still take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HostMemory", "host_memory"]

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class HostMemory:
    """Bytes of the machine, or of the control group (a container's) that the process is in.

    Attributes:
        total: All there is.
        free: What can be had without swapping: files that were read and are kept count as free.
    """

    total: int
    free: int


def host_memory(groups: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> HostMemory:
    """Read it from the system; the tightest limit of a control group counts.

    Args:
        groups: Where control groups are mounted.
        own: The file that names those of this process.
    """
    import psutil

    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    for limit, used in _limits(groups, own):
        total, free = min(total, limit), min(free, max(0, limit - used))
    return HostMemory(total, free)


def _limits(groups: Path, own: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of each group around this process, in both versions' files."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # not on this platform
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            top, names = groups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = groups / "memory"
        else:
            continue
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(top):
                break
            limit, used = _number(group / names[0]), _number(group / names[1])
            if limit is not None and used is not None:
                yield limit, used - _kept_files(group / "memory.stat", names[2])


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or "max"
        return None


def _kept_files(file: Path, name: str) -> int:
    try:
        rows = (line.split() for line in file.read_text(encoding="ascii").splitlines())
        return next((int(row[1]) for row in rows if row[:1] == [name]), 0)
    except (OSError, ValueError, IndexError):
        return 0
