"""Build one backend's libraries with the root's Meson files: what a backend's package ships."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import source
from compiler import prefer_clang

__all__ = ["BuildError", "build_libraries", "requirements"]

FOLDER_VARIABLE = "LLAMACFFI_BUILD_DIR"
ARGUMENTS_VARIABLE = "LLAMACFFI_MESON_ARGS"


class BuildError(RuntimeError):
    """Meson failed, or built something else than was asked for."""


def requirements(root: Path) -> list[str]:
    """What an isolated build environment needs."""
    return ["meson>=1.9", "ninja>=1.11", *source.requirements(root)]


def build_libraries(root: Path, backend: str) -> list[Path]:
    """Build one backend's libraries; return them, stripped, with the .json that describes each.

    LLAMACFFI_BUILD_DIR names Meson's build folder (default build-BACKEND in the root; what did not
    change is not built again), LLAMACFFI_MESON_ARGS has further arguments of `meson setup`.

    Args:
        root: The project's root.
        backend: One of the choices of -Dbackends in meson.options.

    Raises:
        BuildError: Meson's own words are on standard output.
    """
    source.ensure_source(root)
    prefer_clang()
    folder = root / os.environ.get(FOLDER_VARIABLE, f"build-{backend}")
    configured = (folder / "meson-private" / "coredata.dat").is_file()
    # The variants are named, since a folder remembers what it was set up with before.
    setup = ["setup", *(["--reconfigure"] if configured else []), str(folder)]
    setup += [f"-Dbackends={backend}", "-Dcpu_variants=native"]
    _meson(root, *setup, *shlex.split(os.environ.get(ARGUMENTS_VARIABLE, "")))
    _meson(root, "compile", "-C", str(folder), "libraries")
    staged = folder / "staged"
    shutil.rmtree(staged, ignore_errors=True)
    install = ["install", "-C", str(folder), "--no-rebuild", "--quiet", "--strip"]
    _meson(root, *install, "--tags", "library", "--destdir", str(staged))
    made = sorted(path for path in staged.rglob("libllama-*") if path.is_file())
    if not made or not all(path.name.startswith(f"libllama-{backend}-") for path in made):
        names = ", ".join(path.name for path in made) or "nothing"
        raise BuildError(f"Asked for libraries of {backend}, Meson installed {names}.")
    return made


def _meson(root: Path, *arguments: str) -> None:
    # Scripts of the environment that this Python belongs to, if nothing comes before them on PATH.
    scripts = os.pathsep.join(
        [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]
    )
    environment = os.environ | {"PATH": scripts}
    try:
        status = subprocess.run(["meson", *arguments], cwd=root, env=environment).returncode
    except OSError as error:
        raise BuildError(f"Meson could not be run: {error}. pip install meson ninja.") from None
    if status:
        raise BuildError(
            f"`meson {arguments[0]}` failed with exit status {status}; its messages are above "
            "(pip shows them with --verbose)."
        )
