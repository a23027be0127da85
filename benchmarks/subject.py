"""Running a subject: one fresh process that measures one metric and prints JSON."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.metrics import OURS, PEER, UPSTREAM, Metric

SUBJECTS = Path(__file__).parent / "subjects"
TIMEOUT_SECONDS = 600


class SubjectError(RuntimeError):
    """A subject did not print its figures."""


@dataclass(frozen=True)
class Subject:
    """Something to measure.

    Attributes:
        name: As it appears in the table.
        command: Starts it; the job is appended as JSON.
        options: Added to every job.
        environment: Added to the process's environment.
    """

    name: str
    command: tuple[str, ...]
    options: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def measure(self, metric: Metric, model: Path, threads: int) -> float:
        """Run it; the median over its processes of the medians of their values."""
        job = {
            "kind": metric.kind,
            "model": str(model),
            "threads": threads,
            "prompts": metric.prompts,
            "tokens": metric.tokens,
            "repetitions": metric.repetitions,
            **self.options,
        }
        return statistics.median(self._run(job) for _ in range(metric.processes))

    def _run(self, job: dict[str, object]) -> float:
        environment = {**stock_environment(), **self.environment}
        started = json.dumps({**job, "started_ns": time.monotonic_ns()})
        try:
            result = subprocess.run(
                [*self.command, started],
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise SubjectError(f"{self.name}, {job['kind']}: {error.timeout:g} s passed") from None
        try:
            if result.returncode == 0:
                return float(
                    statistics.median(json.loads(result.stdout.splitlines()[-1])["values"])
                )
        except (ValueError, LookupError):
            pass
        end = (result.stderr or result.stdout).strip()[-2000:]
        raise SubjectError(f"{self.name}, {job['kind']}: exit status {result.returncode}\n{end}")


def stock_environment() -> dict[str, str]:
    """Ours, but byte code is cached, and no setting of the shell leaks into Python."""
    left_out = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONSTARTUP")
    return {name: value for name, value in os.environ.items() if name not in left_out}


def from_setup(
    place: Path, library: Path | None = None, backend: str = "cpu"
) -> dict[str, Subject]:
    """The three subjects as ci/bench sets them up.

    Args:
        place: The folder of ci/bench.
        library: Another library file for llamacffi.
        backend: The one that all three were built for.
    """
    override = {"LLAMACFFI_BACKEND": backend}
    if library:
        override = {"LLAMACFFI_LIBRARY": str(library)}
    ours = _script(place / "ours/bin/python", "llamacffi_subject.py")
    peer = _script(place / "peer/bin/python", "llama_cpp_subject.py")
    upstream = _script(Path(sys.executable), "llama_bench_subject.py")
    executable = {"executable": str(place / "stock/bin/llama-bench")}
    return {
        OURS: Subject(OURS, ours, environment=override),
        PEER: Subject(PEER, peer),
        UPSTREAM: Subject(UPSTREAM, upstream, options=executable),
    }


def from_libraries(
    libraries: Mapping[str, Path], python: Path, poll: Sequence[int | None], cpu_time: bool
) -> dict[str, Subject]:
    """Library files, each with each polling level, driven by the barest loop."""
    command = _script(python, "library_subject.py")
    subjects = {}
    for label, path in libraries.items():
        for level in poll:
            name = label if len(poll) == 1 else f"{label} poll={level}"
            options = {"library": str(path), "poll": level, "cpu_time": cpu_time}
            subjects[name] = Subject(name, command, options)
    return subjects


def _script(python: Path, name: str) -> tuple[str, ...]:
    return (str(python), str(SUBJECTS / name))
