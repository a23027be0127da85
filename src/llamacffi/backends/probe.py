"""Try a library in a child process: `python -m llamacffi.backends.probe PATH`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from llamacffi.backends.backend import Device
from llamacffi.backends.devices import Inventory, inventory
from llamacffi.errors import BackendUnavailableError, LibraryMismatchError, LlamaCffiError
from llamacffi.native.library import open_library

__all__ = ["CannotProbeError", "probe_library"]

TIMEOUT_SECONDS = 120.0  # a GPU driver may compile its shaders first


class CannotProbeError(BackendUnavailableError):
    """There is no telling: the child process does not get as far as the library."""


def probe_library(path: Path) -> Inventory:
    """Open a library in a child process and return what it finds.

    Raises:
        LibraryMismatchError: It was built from other sources than this package.
        CannotProbeError: The child process could not be started, or ended without an answer.
        BackendUnavailableError: It could not be opened, crashed, or did not answer in time.
    """
    import signal
    import subprocess

    if not sys.executable or getattr(sys, "frozen", False):
        # A program with Python inside would start itself once more.
        raise CannotProbeError(f"{path.name} could not be tried: there is no Python to start.")
    command = [sys.executable, "-m", "llamacffi.backends.probe", str(path)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except OSError as error:
        raise CannotProbeError(f"{path.name} could not be tried: {error}.") from None
    except subprocess.TimeoutExpired:
        raise BackendUnavailableError(
            f"{path.name} did not answer within {TIMEOUT_SECONDS:.0f} s when opened."
        ) from None
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise BackendUnavailableError(
            f"{path.name} crashed with {name} when opened, or the driver did that it uses"
        )
    try:
        answer = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        tail = child.stderr.strip().splitlines()[-1:] or ["no output"]
        raise CannotProbeError(f"{path.name} could not be tried: {tail[0]}") from None
    if "error" in answer:
        refusal = LibraryMismatchError if answer["mismatch"] else BackendUnavailableError
        raise refusal(answer["error"])
    return Inventory(tuple(Device(**device) for device in answer["devices"]), answer["problem"])


def _main(path: str) -> None:
    try:
        found = inventory(open_library(Path(path)))
    except LlamaCffiError as error:
        mismatch = isinstance(error, LibraryMismatchError)
        answer: dict[str, object] = {"error": str(error), "mismatch": mismatch}
    else:
        answer = asdict(found)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1])
