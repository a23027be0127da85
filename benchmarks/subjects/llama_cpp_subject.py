"""llama-cpp-python, as a subject: see timing.py."""
# ruff: noqa: E402 - the import that is measured comes first

from __future__ import annotations

import time

begun = time.perf_counter()
import llama_cpp

llama_cpp.Llama  # noqa: B018
import_ms = (time.perf_counter() - begun) * 1e3

from typing import Any

import timing


def prompt(llm: llama_cpp.Llama, job: dict[str, Any]) -> None:
    """Tokens per second of one evaluation of a fresh prompt."""
    values = []
    for number in range(job["repetitions"] + 1):  # the first one warms up
        tokens = job["prompts"][number % len(job["prompts"])]
        llm.reset()
        started = time.perf_counter()
        llm.eval(tokens)
        values.append(len(tokens) / (time.perf_counter() - started))
    timing.report(values[1:])


job = timing.read_job()
if job["kind"] == "import":
    timing.report([import_ms])
else:
    llm = llama_cpp.Llama(**timing.settings(job))
    if job["kind"] == "prompt":
        prompt(llm, job)
    else:
        timing.SHARED[job["kind"]](llm, job)
