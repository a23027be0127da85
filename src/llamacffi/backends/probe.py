"""Try a library in a child process: `python -m llamacffi.backends.probe PATH`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from llamacffi.backends.backend import Device
from llamacffi.backends.devices import devices, problem
from llamacffi.errors import BackendUnavailableError, LibraryMismatchError, LlamaCffiError
from llamacffi.native.library import open_library

__all__ = ["probe_library"]

TIMEOUT_SECONDS = 120.0  # a GPU driver may compile its shaders first


def probe_library(path: Path) -> tuple[tuple[Device, ...], str]:
    """Open a library in a child process; return the devices it finds, and why if it finds none.

    Raises:
        LibraryMismatchError: It was built from other sources than this package.
        BackendUnavailableError: It could not be opened, crashed, or did not answer in time.
    """
    import signal
    import subprocess

    command = [sys.executable, "-m", "llamacffi.backends.probe", str(path)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        raise BackendUnavailableError(
            f"{path.name} did not answer within {TIMEOUT_SECONDS:.0f} s when opened."
        ) from None
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise BackendUnavailableError(f"{path.name} crashed with {name} when opened.")
    try:
        answer = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        tail = child.stderr.strip().splitlines()[-1:] or ["no output"]
        raise BackendUnavailableError(f"{path.name} could not be tried: {tail[0]}") from None
    if "error" in answer:
        refusal = LibraryMismatchError if answer["mismatch"] else BackendUnavailableError
        raise refusal(answer["error"])
    return tuple(Device(**device) for device in answer["devices"]), str(answer["problem"])


def _main(path: str) -> None:
    try:
        library = open_library(Path(path))
        found, why = devices(library), problem(library)
    except LlamaCffiError as error:
        mismatch = isinstance(error, LibraryMismatchError)
        answer: dict[str, object] = {"error": str(error), "mismatch": mismatch}
    else:
        answer = {"devices": [asdict(device) for device in found], "problem": why}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1])
