"""llamacffi, as a subject: see timing.py."""
# ruff: noqa: E402 - the import that is measured comes first

from __future__ import annotations

import time

begun = time.perf_counter()
import llamacffi

llamacffi.Llama  # noqa: B018 - the class too, should the package bring it lazily
import_ms = (time.perf_counter() - begun) * 1e3

from collections.abc import Callable
from typing import Any

import sessions
import timing


def prompt(job: dict[str, Any]) -> None:
    """Tokens per second of one decode of a fresh prompt."""
    values = []
    with (
        llamacffi.Model(job["model"], backend="cpu") as model,
        model.context(
            n_ctx=timing.N_CTX,
            n_batch=timing.N_BATCH,
            n_threads=job["threads"],
            n_threads_batch=job["threads"],
        ) as context,
    ):
        for number in range(job["repetitions"] + 1):  # the first one warms up
            tokens = job["prompts"][number % len(job["prompts"])]
            context.memory.clear()
            started = time.perf_counter()
            context.decode_tokens(tokens, sequence=0, outputs="last")
            values.append(len(tokens) / (time.perf_counter() - started))
    timing.report(values[1:])


def structured(llm: llamacffi.Llama, engine: str) -> Callable[[], float]:
    params = llamacffi.SamplingParams(structured_engine=engine, json_schema=timing.SCHEMA)
    return lambda: timing.rate(llm, timing.DESCRIBE, 300, sampling=params)


def feature(llm: llamacffi.Llama, kind: str, repetitions: int) -> None:
    """The rate with a feature by the rate without."""
    prompt, tokens = timing.DESCRIBE, 100
    if kind == "lookup":
        prompt, tokens = timing.EDIT, 120
        drafting = llamacffi.Llama(**timing.settings(job), draft_model=llamacffi.PromptLookup())
        others = {"lookup": lambda: timing.rate(drafting, prompt, tokens)}
    else:
        others = {
            "logprobs": lambda: timing.rate(llm, prompt, tokens, logprobs=5),
            "processor": lambda: timing.rate(
                llm, prompt, tokens, logits_processor=lambda _tokens, logits: logits
            ),
            "structured": structured(llm, "auto"),
            "structured_gbnf": structured(llm, "json_schema"),
        }
    timing.compare(lambda: timing.rate(llm, prompt, tokens), others[kind], repetitions)


FEATURES = ("structured", "structured_gbnf", "logprobs", "processor", "lookup")
job = timing.read_job()
if job["kind"] == "import":
    timing.report([import_ms])
elif job["kind"] == "load":
    timing.load(llamacffi.Llama, job)
elif job["kind"] == "prompt":
    prompt(job)
elif job["kind"] in sessions.KINDS:
    sessions.KINDS[job["kind"]](job)
elif job["kind"] in FEATURES:
    feature(llamacffi.Llama(**timing.settings(job)), job["kind"], job["repetitions"])
else:
    llm = llamacffi.Llama(**timing.settings(job))
    timing.SHARED[job["kind"]](llm, job)
