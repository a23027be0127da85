"""What this machine is and has, found out by looking: why a row of the matrix cannot be run here.

Each check returns the reason, or "" where there is none.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["CHECKS", "missing_programs", "this_platform"]

_SYSTEMS = {"linux": "linux", "darwin": "macos", "win32": "windows"}
_PROCESSORS = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


def this_platform() -> str:
    """As the rows spell it: "linux-x86_64"."""
    processor = platform.machine().lower()
    return f"{_SYSTEMS.get(sys.platform, sys.platform)}-{_PROCESSORS.get(processor, processor)}"


def missing_programs(programs: tuple[str, ...]) -> str:
    """Unless one of them is on the PATH."""
    if not programs or any(map(shutil.which, programs)):
        return ""
    return f"no {' or '.join(programs)} on the PATH"


def _open(*names: str) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _nvidia_card() -> str:
    """Asks the driver as programs do: it may be there without a card."""
    driver = _open("libcuda.so.1", "nvcuda.dll")
    if driver is None:
        return "no card: no NVIDIA driver (libcuda) is installed"
    if code := driver.cuInit(0):
        return f"no card: the NVIDIA driver says {code} (cuInit)"
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    return "" if count.value else "no card: the NVIDIA driver finds none"


def _amd_card() -> str:
    return "" if Path("/dev/kfd").exists() else "no card: no /dev/kfd, so no AMD compute driver"


def _intel_card() -> str:
    if any(Path("/dev/dri").glob("renderD*")):
        return ""
    return "no card: no /dev/dri/renderD*, so no graphics driver"


CHECKS: dict[str, Callable[[], str]] = {
    "NVIDIA card": _nvidia_card,
    "AMD card": _amd_card,
    "Intel card": _intel_card,
}
