"""Wheels for the tests of packages: of a backend, of what is installed here, and later releases."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import llamacffi
from llamacffi.hub.cache import locked

ROOT = Path(__file__).parent.parent
VERSION = llamacffi.__version__
_OF_THE_INSTALLER = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}


def backend_project(folder: Path) -> Path:
    """plugins/llamacffi-vulkan as it is, but with the CPU's library, which takes no GPU to use."""
    original = ROOT / "plugins" / "llamacffi-vulkan"
    left_out = shutil.ignore_patterns("lib", "tests", "__pycache__")
    project = Path(shutil.copytree(original, folder / original.name, ignore=left_out))
    changes = {
        "pyproject.toml": [
            ('"../../build_backend/', f'"{ROOT / "build_backend"}/'),
            ('backend = "vulkan"', 'backend = "cpu"'),
        ],
        "src/llamacffi_vulkan/__init__.py": [
            ('libraries_of(__name__, "vulkan")', 'libraries_of(__name__, "cpu")'),
            ('("gpu", "igpu")', '("cpu",)'),
        ],
    }
    for name, pairs in changes.items():
        text = (project / name).read_text(encoding="utf-8")
        for old, new in pairs:
            assert old in text, f"{name} has no {old}"
            text = text.replace(old, new)
        (project / name).write_text(text, encoding="utf-8")
    return project


BUILD_FOLDER = ROOT / os.environ.get("BUILD_DIR", "build")


def build_environment() -> dict[str, str]:
    """Builds where ci/setup did, for the same instruction sets: nothing is compiled again."""
    (cpu,) = [report for report in llamacffi.backends() if report.name == "cpu"]
    variants = ",".join(library.variant for library in cpu.libraries)
    return os.environ | {
        "LLAMACFFI_BUILD_DIR": str(BUILD_FOLDER),
        "LLAMACFFI_MESON_ARGS": f"-Dcpu_variants={variants}",
    }


def pip(
    *arguments: object, python: Path | str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def build(*arguments: object, python: Path | str = sys.executable) -> None:
    """Have pip build, with the tools that are here; one process of the tests at a time."""
    with locked(BUILD_FOLDER / "tests"):
        offline = ("--no-build-isolation", "--no-deps")
        made = pip(*arguments, *offline, "--verbose", python=python, **build_environment())
    assert made.returncode == 0, made.stdout[-4000:] + made.stderr[-4000:]


def build_wheel(project: Path, folder: Path) -> Path:
    """As `pip install` of the folder would build it."""
    build("wheel", "--wheel-dir", folder, project)
    (path,) = folder.glob("*.whl")
    return path


def unpack(wheel: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "wheel", "unpack", "--dest", folder, wheel]
    subprocess.run(command, check=True, capture_output=True)
    (tree,) = folder.iterdir()
    return tree


def pack(tree: Path, folder: Path) -> Path:
    before = set(folder.glob("*.whl"))
    command = [sys.executable, "-m", "wheel", "pack", "--dest-dir", folder, tree]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = set(folder.glob("*.whl")) - before
    return path


def unpacked_llamacffi(folder: Path) -> Path:
    """The llamacffi that runs this, as the inside of a wheel."""
    installed = distribution("llamacffi")
    for file in installed.files or ():
        if ".." not in file.parts and file.name not in _OF_THE_INSTALLER:
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(str(file.locate())), target)
    return folder


def become(tree: Path, version: str, commit: str) -> Path:
    """Turn the inside of a wheel into that of another release, built from another llama.cpp."""
    before = json.loads(next(tree.rglob("libllama-*.json")).read_text(encoding="utf-8"))["commit"]
    for file in [*tree.rglob("libllama-*"), *tree.rglob("_llama.py")]:
        data = file.read_bytes()
        assert before.encode() in data
        file.write_bytes(data.replace(before.encode(), commit.encode()))
    for file in tree.glob("llamacffi/__init__.py"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(f'"{VERSION}"', f'"{version}"'), encoding="utf-8")
    (info,) = tree.glob("*.dist-info")
    metadata = info / "METADATA"
    text = metadata.read_text(encoding="utf-8")
    text = re.sub(rf"^(Version: |Requires-Dist: llamacffi==){VERSION}$", rf"\g<1>{version}",
                  text, flags=re.M)  # fmt: skip
    metadata.write_text(text, encoding="utf-8")
    info.rename(info.with_name(info.name.replace(VERSION, version)))
    return tree


class Environment:
    """An environment over the one that runs the tests: it sees what is there, and adds its own."""

    def __init__(self, folder: Path, index: Path) -> None:
        venv.create(folder, with_pip=False)
        self.scripts = folder / "bin"
        self.python = self.scripts / "python"
        self.index = index
        below = json.dumps(str(Path(llamacffi.__file__).parent.parent))
        (place,) = folder.glob("lib/python*/site-packages")
        # As a site folder, so that editable installs in it work, too.
        (place / "below.pth").write_text(f"import site; site.addsitedir({below})\n")
        self.place = place

    def pip(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """pip, with the folder of wheels as the only index."""
        return pip(*arguments, python=self.python, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(self.index))

    def install(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        made = self.pip("install", "--quiet", *arguments)
        assert made.returncode == 0, made.stderr
        return made

    def llamacffi(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """The command."""
        return self._run("-m", "llamacffi", *arguments)

    def script(self, code: str) -> str:
        """Run Python code that is to succeed, and return what it prints."""
        done = self._run("-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def report(self, backend: str) -> str:
        """The line of `llamacffi backends` on one backend."""
        listed = self.llamacffi("backends")
        assert listed.returncode == 0, listed.stderr
        (line,) = [line for line in listed.stdout.splitlines() if line.startswith(f"{backend}: ")]
        return line

    def _run(self, *command: object) -> subprocess.CompletedProcess[str]:
        overrides = ("PYTHONPATH", "LLAMACFFI_BACKEND", "LLAMACFFI_LIBRARY")
        return subprocess.run(
            [self.python, *map(str, command)],
            capture_output=True,
            text=True,
            cwd=self.scripts,
            env={name: value for name, value in os.environ.items() if name not in overrides},
        )
