"""Doing a row of the matrix: its steps, one after another, each with its time and outcome."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from machine import CHECKS, missing_programs, this_platform
from rows import NOTHING, OPTIONS, PACKAGE, SETUP, STEPS, WHEEL, Row

__all__ = ["DONE", "FAILED", "SKIPPED", "Result", "do_row", "missing_device", "tool_of", "why_not"]

ROOT = Path(__file__).resolve().parent.parent
DONE, SKIPPED, FAILED = "done", "skipped", "FAILED"
UNAVAILABLE = 69  # sysexits.h, EX_UNAVAILABLE: what ci/tools/NAME ends with where it has no way
_OVERRIDES = ("LLAMACFFI_BACKEND", "LLAMACFFI_LIBRARY", "PYTHONPATH")
_AS_JSON = "import json, os; print(json.dumps(dict(os.environ)))"


@dataclass(frozen=True)
class Result:
    """What came of one step: DONE, SKIPPED or FAILED, and a few words about it."""

    row: str
    step: str
    outcome: str
    seconds: float
    words: str = ""


class _Skip(Exception):
    """The step cannot be done here, for the reason given."""


class _Failure(Exception):
    """The step was done, and its outcome is not what it has to be."""


def tool_of(row: Row) -> Path | None:
    """The script that makes present what the row needs to be built and run."""
    path = ROOT / "ci/tools" / row.name
    return path if path.exists() else None


def why_not(row: Row) -> str:
    """Why this machine cannot begin with a row; "" if it can."""
    if this_platform() not in row.platforms:
        return f"this is {this_platform()}: {row.elsewhere}"
    return "" if tool_of(row) else missing_programs(row.programs)


def missing_device(row: Row) -> str:
    """Why there is no device of the kind that a row needs to compute; "" if there is."""
    return CHECKS[row.device]() if row.device else ""


def python_of(place: Path) -> Path:
    """The interpreter of an environment."""
    windows = place / "Scripts/python.exe"
    return windows if windows.exists() else place / "bin/python"


@dataclass
class _Doing:
    """A row that is being done."""

    row: Row
    environment: dict[str, str]
    python: Path = Path()
    variants: list[str] = field(default_factory=list)

    @property
    def base(self) -> Path:
        """The interpreter that ci/setup provides: build tools, test tools, the CPU library."""
        return python_of((ROOT / self.environment.get("VENV", ".venv")).absolute())

    def run(self, *command: object, cwd: Path = ROOT) -> None:
        """Run a command whose output everyone may read.

        Raises:
            _Failure: It ended with another status than 0.
        """
        words = list(map(str, command))
        print("+", *(word.replace(f"{ROOT}{os.sep}", "") for word in words), flush=True)
        code = subprocess.run(words, cwd=cwd, env=self.environment).returncode
        if code:
            raise _Failure(f"{Path(words[0]).name} ended with status {code}")

    def answer(self, *command: object) -> Any:
        """The JSON that a command ends its output with."""
        words = list(map(str, command))
        made = subprocess.run(
            words, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True
        )
        if made.returncode:
            raise _Failure(f"{Path(words[1]).name} ended with status {made.returncode}")
        return json.loads(made.stdout)

    # -- the steps, in order; each returns a few words ------------------------------------------

    def prepare(self) -> str:
        """Run ci/tools/NAME, and take over what it exports."""
        self.environment |= self.row.environment
        if missing_device(self.row):
            self.environment |= self.row.without_device
        tool = tool_of(self.row)
        if tool is None:
            return "nothing to do"
        made = subprocess.run(
            ["bash", str(tool)], cwd=ROOT, env=self.environment, text=True, capture_output=True
        )
        sys.stdout.write(made.stderr)
        if made.returncode == UNAVAILABLE:
            raise _Skip((made.stderr.strip().splitlines() or ["it cannot be had here"])[-1])
        if made.returncode:
            raise _Failure(f"ci/tools/{tool.name} ended with status {made.returncode}")
        script = 'set -eu; eval "$1"; exec "$2" -c "$3"'
        evaluated = subprocess.run(
            ["bash", "-c", script, "-", made.stdout, sys.executable, _AS_JSON],
            env=self.environment, check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.environment = json.loads(evaluated.stdout)
        return f"ci/tools/{tool.name}"

    def build(self) -> str:
        """Build the libraries, install them where the next steps find them, and look at them."""
        words = _BUILDS[self.row.build](self)
        for script, *arguments in self.row.checks:
            filled = [Template(argument).substitute(self.environment) for argument in arguments]
            self.run(self.base, ROOT / script, *filled)
        return ", ".join([words, *(script for script, *_ in self.row.checks)])

    def load(self) -> str:
        """Open the libraries; they are usable, or not, for the reason that is expected."""
        command = (self.python, "-m", "llamacffi", "backends", "--probe", "--json")
        found = {report["name"]: report for report in self.answer(*command)}
        report = found.get(self.row.backend)
        if report is None or not report["installed"]:
            raise _Failure(f"no library of {self.row.backend!r} is installed")
        if missing_device(self.row):
            reason = str(report["reason"])
            if report["usable"] or not re.search(self.row.unusable, reason):
                raise _Failure(f"expected the reason {self.row.unusable!r}, found {reason!r}")
            return f"not usable, as expected: {reason}"
        if not report["usable"]:
            raise _Failure(report["reason"])
        usable = [library for library in report["libraries"] if library["usable"]]
        self.variants = [library["variant"] for library in usable]
        devices = ", ".join(device["name"] for device in report["library"]["devices"])
        return f"{', '.join(self.variants)}; devices: {devices}"

    def generate(self) -> str:
        """Generate with each library that is usable; the text is the CPU's."""
        if not self.variants:
            raise _Skip(missing_device(self.row))
        script = ROOT / "ci/generate.py"
        expected = self.answer(self.base, script, "cpu")["text"]
        for variant in self.variants:
            name = f"{self.row.backend}:{variant}"
            text = self.answer(self.python, script, name, self.row.workers)["text"]
            print(f"{name}: {text!r}", flush=True)
            if text != expected:
                raise _Failure(f"{name} continues with {text!r}, the CPU with {expected!r}")
        return "the same text as the CPU's"

    def test(self) -> str:
        """Run the row's tests."""
        if self.row.build == SETUP:
            self.run("bash", "ci/suite")
        elif self.row.build == PACKAGE:
            folder = ROOT / self.row.package
            self.run(self.python, "-m", "pytest", cwd=folder)
            self.run(self.python, "-m", "mypy", cwd=folder)
        elif self.row.tests:
            self.run(self.python, "-m", "pytest", *self.row.tests)
        return " ".join(self.row.tests) or "it has none"

    # -- ways to build ---------------------------------------------------------------------------

    def build_setup(self) -> str:
        self.run("bash", "ci/setup", "test")
        self.python = self.base
        return "ci/setup"

    def build_nothing(self) -> str:
        self.python = self.base
        return "it is in the CPU library"

    def build_wheel(self) -> str:
        output = ROOT / "build-plugins/wheel"
        self.run("bash", "ci/wheel", output)
        newest = max(output.glob("*.whl"), key=lambda path: path.stat().st_mtime)
        self.install(newest, "--no-deps", "--force-reinstall")
        self.environment["LLAMACFFI_TEST_WHEEL"] = str(newest)
        return newest.name

    def build_options(self) -> str:
        settings = (f"-Cbuild-dir=build-{self.row.name}", *(
            f"-Csetup-args={option}" for option in self.row.options
        ))  # fmt: skip
        self.install(ROOT, "--no-deps", "--no-build-isolation", *settings)
        return " ".join(self.row.options)

    def build_package(self) -> str:
        # CUDA's needs half a gigabyte of cuBLAS, which nothing uses where there is no card.
        without = ["--no-deps"] if missing_device(self.row) else []
        self.install(ROOT / self.row.package, "--no-build-isolation", *without)
        return self.row.package

    def install(self, what: Path, *options: str) -> None:
        """With pip, into an environment of the row's own on top of the one of ci/setup."""
        made = subprocess.run(
            ["bash", "ci/overlay", self.row.name], cwd=ROOT, env=self.environment, check=True,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.python = python_of(ROOT / made.stdout.strip())
        programs = f"{self.base.parent}{os.pathsep}{self.environment['PATH']}"  # meson, ninja
        self.environment |= {"PATH": programs, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        print(f"+ pip install {what.relative_to(ROOT)}", *options, flush=True)
        command = (self.python, "-m", "pip", "install", "--verbose", *options, what)
        with subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as pip:  # fmt: skip
            subprocess.run([sys.executable, "ci/progress.py"], cwd=ROOT, stdin=pip.stdout)
        if pip.returncode:
            raise _Failure(f"pip ended with status {pip.returncode}")


_BUILDS: dict[str, Callable[[_Doing], str]] = {
    SETUP: _Doing.build_setup,
    NOTHING: _Doing.build_nothing,
    WHEEL: _Doing.build_wheel,
    OPTIONS: _Doing.build_options,
    PACKAGE: _Doing.build_package,
}


@contextmanager
def _grouped(title: str) -> Iterator[None]:
    """A heading for what follows, folded where GitHub shows the log."""
    folded = os.environ.get("GITHUB_ACTIONS") == "true"
    print(f"::group::{title}" if folded else f"\n== {title}", flush=True)
    yield
    if folded:
        print("::endgroup::", flush=True)


def do_row(row: Row, until: str = STEPS[-1]) -> Iterator[Result]:
    """Do the steps of a row, up to one of them or the first that fails or cannot be begun here."""
    until = min(until, row.until.get(this_platform(), until), key=STEPS.index)
    if reason := why_not(row):
        yield Result(row.name, STEPS[0], SKIPPED, 0, reason)
        return
    environment = {name: value for name, value in os.environ.items() if name not in _OVERRIDES}
    doing = _Doing(row, environment)
    for step in STEPS[: STEPS.index(until) + 1]:
        started = time.monotonic()
        with _grouped(f"{row.name}: {step}"):
            try:
                outcome, words = DONE, getattr(doing, step)()
            except _Skip as skip:
                outcome, words = SKIPPED, str(skip)
            except (_Failure, subprocess.CalledProcessError, OSError) as failure:
                outcome, words = FAILED, str(failure)
            print(f"{row.name}: {step}: {outcome}: {words}", flush=True)
        yield Result(row.name, step, outcome, time.monotonic() - started, words)
        if outcome == FAILED or (outcome == SKIPPED and step == STEPS[0]):
            return
