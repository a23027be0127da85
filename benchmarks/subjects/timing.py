"""What both Python libraries are asked to do, through the interface that they share.

A subject is a script: it gets its job as a JSON argument and prints {"values": [...]} as its last
line. The libraries' `Llama` classes take the same arguments, so this code is the same for both.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

N_CTX = 2048
N_BATCH = 512


def read_job() -> dict[str, Any]:
    job: dict[str, Any] = json.loads(sys.argv[1])
    return job


def report(values: list[float], **more: object) -> None:
    print(json.dumps({"values": values, **more}))


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """The arguments for `Llama`."""
    if job["kind"] == "embed":
        return {**_settings(job), "n_ctx": N_BATCH, "embedding": True}
    return _settings(job)


def _settings(job: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_path": job["model"],
        "n_ctx": N_CTX,
        "n_batch": N_BATCH,
        "n_threads": job["threads"],
        "n_threads_batch": job["threads"],
        "n_gpu_layers": -1,
        "verbose": False,
    }


def load(make: Callable[..., Any], job: dict[str, Any]) -> None:
    """Milliseconds that a model takes to load; the first one warms up."""
    values = []
    for _ in range(job["repetitions"] + 1):
        begun = time.perf_counter()
        llm = make(**settings(job))
        values.append((time.perf_counter() - begun) * 1e3)
        llm.close()
    report(values[1:])


def stream(llm: Any, prompt: list[int], tokens: int) -> tuple[float, float, str]:
    """Seconds to the first text, seconds from it to the end, and the text."""
    begun = time.perf_counter()
    first = 0.0
    text = ""
    finish_reason = None
    for chunk in llm.create_completion(prompt, max_tokens=tokens, temperature=0.0, stream=True):
        choice = chunk["choices"][0]
        finish_reason = choice["finish_reason"] or finish_reason
        if choice["text"]:
            first = first or time.perf_counter()
            text += choice["text"]
    ended = time.perf_counter()
    if finish_reason != "length":
        raise SystemExit(f"{finish_reason!r} came before {tokens} tokens: rates would be wrong")
    return first - begun, ended - first, text


def generate(llm: Any, job: dict[str, Any]) -> None:
    """Tokens per second after the first one."""
    prompts, tokens = job["prompts"], job["tokens"]
    stream(llm, prompts[0], 8)
    values = []
    text = ""
    for number in range(job["repetitions"]):
        _, seconds, text = stream(llm, prompts[number % len(prompts)], tokens)
        values.append((tokens - 1) / seconds)
    report(values, text=text)


def first_token(llm: Any, job: dict[str, Any]) -> None:
    """Milliseconds to the first text; no prompt begins like the one before, so none is reused."""
    prompts = job["prompts"]
    stream(llm, prompts[-1], 8)
    report([stream(llm, prompt, 4)[0] * 1e3 for prompt in prompts])


def start(llm: Any, job: dict[str, Any]) -> None:
    """The moment of the first text, on the clock that the parent process reads too."""
    for chunk in llm.create_completion(
        job["prompts"][0], max_tokens=4, temperature=0.0, stream=True
    ):
        if chunk["choices"][0]["text"]:
            report([(time.monotonic_ns() - job["started_ns"]) / 1e6])
            return


def memory(llm: Any, job: dict[str, Any]) -> None:
    """Megabytes (10^6 bytes) of peak resident memory of this process."""
    stream(llm, job["prompts"][0], job["tokens"])
    unit = 1 if sys.platform == "darwin" else 1024
    report([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6])


def embed(llm: Any, job: dict[str, Any]) -> None:
    """Texts per second, all given at once."""
    words = STORY.split()
    texts = [
        " ".join(words[(number * 7 + place) % len(words)] for place in range(5 + number % 16))
        for number in range(256)
    ]
    values = []
    for _ in range(job["repetitions"] + 1):  # the first one warms up
        begun = time.perf_counter()
        found = llm.embed(texts)
        values.append(len(texts) / (time.perf_counter() - begun))
        assert len(found) == len(texts)
    report(values[1:])


def rate(llm: Any, prompt: Any, tokens: int, **more: Any) -> float:
    """Tokens per second of a completion whose prompt is in the cache already."""
    begun = time.perf_counter()
    result = llm.create_completion(prompt, max_tokens=tokens, temperature=0.0, **more)
    return float(result["usage"]["completion_tokens"] / (time.perf_counter() - begun))


def compare(plain: Callable[[], float], other: Callable[[], float], repetitions: int) -> None:
    """Report the ratios of rates taken in turn, after a first pair that warms up."""
    pairs = [(plain(), other()) for _ in range(repetitions + 1)]
    report([second / first for first, second in pairs[1:]])


# An object of ten fields for the measurement of structured output.
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "email": {"type": "string", "maxLength": 30},
        "city": {"type": "string", "maxLength": 20},
        "country": {"enum": ["France", "Spain", "Italy", "Poland"]},
        "married": {"type": "boolean"},
        "height": {"type": "number"},
        "job": {"type": "string", "maxLength": 20},
        "hobbies": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
        "salary": {"type": "integer"},
    },
    "required": [
        "name", "age", "email", "city", "country", "married", "height", "job", "hobbies", "salary",
    ],
    "additionalProperties": False,
}  # fmt: skip
DESCRIBE = "Jean lives in Lyon and is a teacher. His record as JSON:\n"
# Repeat a text with one change, shown by an example: small models follow that better than words.
STORY = (
    "Tom went to the market on Monday. He bought three apples, two pears and a loaf of bread. On "
    "the way home he met his old friend Anna, who was carrying a basket of eggs. They talked about "
    "the weather and about the harvest. Then Tom said goodbye and walked home along the river. The "
    "next morning he got up early and made breakfast for his sister. She wanted to see the "
    "mountains, so they took the train at nine. In the valley it was still cold, and the grass was "
    "wet. In the evening they were tired and happy, and went to bed before ten.\n\n"
)
EDIT = STORY + STORY.replace("apples", "plums") + STORY.replace("apples", "lemons").split(",")[0]

SHARED = {
    "generate": generate,
    "first_token": first_token,
    "start": start,
    "memory": memory,
    "embed": embed,
}
