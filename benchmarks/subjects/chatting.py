"""Chats with a history of some 1500 tokens, for both Python libraries."""

from __future__ import annotations

import time
from typing import Any

from timing import report

N_CTX = 4096  # room for two such chats
ANSWER_TOKENS = 12
PARAGRAPH = (
    "In the {number}th year the people of {place} built a bridge over the river, because the old "
    "ferry was slow and the ferryman was often asleep. They took stones from the hill and wood "
    "from the forest, and they worked from the first light until the evening. When it was done "
    "they danced on it for three days. The ferryman opened an inn on the other side. "
)


def history(place: str) -> list[dict[str, Any]]:
    """The beginning of a chat: about 1500 tokens, no two alike."""
    text = "".join(PARAGRAPH.format(number=number, place=place) for number in range(18))
    return [
        {"role": "system", "content": f"You know everything about {place}."},
        {"role": "user", "content": f"{text}\nWhat did the people of {place} build?"},
    ]


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """The arguments for `Llama`."""
    threads = {"n_threads": job["threads"], "n_threads_batch": job["threads"]}
    return {
        "model_path": job["model"],
        "n_ctx": N_CTX,
        "n_batch": 512,
        "n_gpu_layers": -1,
        "verbose": False,
        **threads,
    }


def turn(llm: Any, messages: list[dict[str, Any]], question: str = "") -> float:
    """Milliseconds to the first text of an answer, which is added to the messages."""
    if question:
        messages.append({"role": "user", "content": question})
    first, text = 0.0, ""
    begun = time.perf_counter()
    for chunk in llm.create_chat_completion(
        messages, max_tokens=ANSWER_TOKENS, temperature=0.0, stream=True
    ):
        piece = chunk["choices"][0]["delta"].get("content")
        if piece:
            first = first or time.perf_counter()
            text += piece
    messages.append({"role": "assistant", "content": text})
    return (first - begun) * 1e3


def second_turn(llm: Any, job: dict[str, Any]) -> None:
    """Milliseconds to the first text of the second turn."""
    values = []
    for number in range(job["repetitions"]):
        messages = history(f"Utopia {number}")
        turn(llm, messages)
        values.append(turn(llm, messages, "And who opened an inn there?"))
    report(values)


def switching(llm: Any, job: dict[str, Any]) -> None:
    """Milliseconds to the first text of a turn that comes after one of another chat."""
    chats = [history("Laputa"), history("Erewhon")]
    for messages in chats:
        turn(llm, messages)
    values = [
        turn(llm, chats[number % 2], f"And what came {number} years later?")
        for number in range(2 * job["repetitions"])
    ]
    report(values[2:])
