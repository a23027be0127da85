"""What the figures were measured on: hardware and versions, no names and no paths."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import re
import subprocess
from pathlib import Path


def describe() -> dict[str, object]:
    return {
        "date": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu_name(),
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "system's compiler": _first_line("c++", "--version"),
        "llama.cpp": _pinned_commit(),
    }


def cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    if found:
        return found.group(1)
    return _first_line("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()


def load_average() -> float | None:
    """Processes that want to run, averaged over a minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def device_name(python: Path, backend: str) -> str:
    """What the llamacffi of an environment reports as a backend's first device, a GPU if any.

    Raises:
        RuntimeError: The backend cannot be used there.
    """
    command = [str(python), "-m", "llamacffi", "backends", "--json"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    report = next((each for each in json.loads(made.stdout) if each["name"] == backend), None)
    if report is None or not report["usable"]:
        reason = report["reason"] if report else "not known"
        raise RuntimeError(f"The backend {backend} cannot be measured here: {reason}.")
    found = report["library"]["devices"]
    device = next((each for each in found if each["type"] != "cpu"), found[0])
    return str(device["description"])


def file_stem(facts: dict[str, object]) -> str:
    """`<date>-<cpu>` for the results; `<backend>-<device>` where that is another one."""
    if facts["backend"] != "cpu":
        return f"{facts['backend']}-{_plain(str(facts['device']))}"
    processor = _plain(f"{facts['cpu']} {facts['processors']}x")
    return f"{str(facts['date']).split()[0]}-{processor}"


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _first_line(*command: str) -> str:
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return output.splitlines()[0] if output else ""


def _pinned_commit() -> str:
    wrap = Path(__file__).parents[1] / "subprojects" / "llama.cpp.wrap"
    found = re.search(r"^revision\s*=\s*(\S+)", wrap.read_text(encoding="utf-8"), re.M)
    return found.group(1) if found else ""
