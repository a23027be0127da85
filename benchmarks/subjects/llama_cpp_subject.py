"""llama-cpp-python, as a subject: see timing.py."""
# ruff: noqa: E402 - the import that is measured comes first

from __future__ import annotations

import time

begun = time.perf_counter()
import llama_cpp

llama_cpp.Llama  # noqa: B018
import_ms = (time.perf_counter() - begun) * 1e3

import json
from typing import Any

import chatting
import timing
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding


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


def feature(job: dict[str, Any]) -> None:
    """The rate with a feature by the rate without."""
    settings = timing.settings(job)
    if job["kind"] == "logprobs":
        settings["logits_all"] = True  # or it refuses
    llm = llama_cpp.Llama(**settings)
    prompt, tokens, more = timing.DESCRIBE, 100, {}
    other, longest = llm, tokens
    if job["kind"] == "structured":
        rules = llama_cpp.LlamaGrammar.from_json_schema(json.dumps(timing.SCHEMA), verbose=False)
        more, longest = {"grammar": rules}, 300
    elif job["kind"] == "logprobs":
        more = {"logprobs": 5}
    elif job["kind"] == "processor":
        nothing = llama_cpp.LogitsProcessorList([lambda _tokens, logits: logits])
        more = {"logits_processor": nothing}
    else:
        prompt, tokens = timing.EDIT, 120
        other, longest = llama_cpp.Llama(**settings, draft_model=LlamaPromptLookupDecoding()), 120
    timing.compare(
        lambda: timing.rate(llm, prompt, tokens),
        lambda: timing.rate(other, prompt, longest, **more),
        job["repetitions"],
    )


job = timing.read_job()
if job["kind"] == "import":
    timing.report([import_ms])
elif job["kind"] == "load":
    timing.load(llama_cpp.Llama, job)
elif job["kind"] in ("structured", "logprobs", "processor", "lookup"):
    feature(job)
elif job["kind"] in ("second_turn", "second_turn_ahead"):
    chatting.second_turn(llama_cpp.Llama(**chatting.settings(job)), job)
elif job["kind"] == "switching":
    chatting.switching(llama_cpp.Llama(**chatting.settings(job)), job)
else:
    llm = llama_cpp.Llama(**timing.settings(job))
    if job["kind"] == "prompt":
        prompt(llm, job)
    else:
        timing.SHARED[job["kind"]](llm, job)
