"""llamacffi's chat sessions: see chatting.py for what both libraries are asked."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chatting
from timing import report

import llamacffi

GREEDY = llamacffi.SamplingParams(temperature=0)


def llama(job: dict[str, Any]) -> llamacffi.Llama:
    return llamacffi.Llama(**chatting.settings(job))


def context(job: dict[str, Any]) -> llamacffi.Context:
    model = llamacffi.Model(job["model"], backend="cpu")
    return model.context(
        n_ctx=chatting.N_CTX,
        n_batch=512,
        n_seq_max=2,
        kv_unified=True,
        n_threads=job["threads"],
        n_threads_batch=job["threads"],
    )


def session(
    context: llamacffi.Context, place: str, read_ahead: bool = False
) -> llamacffi.ChatSession:
    """A chat with a history, and its first answer."""
    system, question = chatting.history(place)
    chat = llamacffi.ChatSession(
        context,
        system=system["content"],
        sampling=GREEDY,
        max_tokens=chatting.ANSWER_TOKENS,
        read_ahead=read_ahead,
    )
    chat.ask(question["content"])
    return chat


def first_text(chat: llamacffi.ChatSession, question: str) -> float:
    """Milliseconds to the first text; the answer is read to its end."""
    begun, first = time.perf_counter(), 0.0
    for _ in chat.stream(question):
        first = first or time.perf_counter()
    return (first - begun) * 1e3


def second_turn(job: dict[str, Any]) -> None:
    chatting.second_turn(llama(job), job)


def second_turn_ahead(job: dict[str, Any]) -> None:
    values = []
    for number in range(job["repetitions"]):
        with session(llama(job).context, f"Utopia {number}", read_ahead=True) as chat:
            values.append(first_text(chat, "And who opened an inn there?"))
    report(values)


def switching(job: dict[str, Any]) -> None:
    shared = context(job)
    chats = [session(shared, "Laputa"), session(shared, "Erewhon")]
    values = [
        first_text(chats[number % 2], f"And what came {number} years later?")
        for number in range(2 * job["repetitions"])
    ]
    report(values[2:])


def switch_cost(job: dict[str, Any]) -> None:
    """A turn after one of the other chat, by one after a turn of the same, in pairs."""
    shared = context(job)
    chats = [session(shared, "Laputa"), session(shared, "Erewhon")]
    ratios = []
    for number in range(job["repetitions"] + 1):
        switched = first_text(chats[number % 2], f"And what came {number} years later?")
        same = first_text(chats[number % 2], f"And what came {number} years after?")
        ratios.append(switched / same)
    report(ratios[1:])


def load_session(job: dict[str, Any]) -> None:
    """Loading a file and answering, by computing the history and answering."""
    shared = context(job)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(job["repetitions"]):
            chat = session(shared, f"Utopia {number}")
            path = Path(folder) / "chat.session"
            chat.save(path)
            bare = Path(folder) / "bare.session"
            chat.save(bare, memory=False)
            chat.close()
            times = []
            for file in (path, bare):
                begun = time.perf_counter()
                loaded = llamacffi.ChatSession.load(file, shared)
                next(stream := loaded.stream("And who opened an inn there?"))
                times.append(time.perf_counter() - begun)
                stream.close()
                loaded.close()
            ratios.append(times[0] / times[1])
    report(ratios)


def long_session(job: dict[str, Any]) -> None:
    """Time per turn at the end of 20 times the context, by that after it was full at first."""
    model = llamacffi.Model(job["model"], backend="cpu")
    chat = llamacffi.ChatSession(
        model,
        system="You count.",
        sampling=GREEDY,
        max_tokens=20,
        n_ctx=512,
        n_threads=job["threads"],
    )
    times: list[float] = []
    used = [0]
    while used[-1] < 20 * chat.context.n_ctx:
        begun = time.perf_counter()
        chat.ask(f"This is turn {len(times)}. Tell me something about this number, please.")
        times.append(time.perf_counter() - begun)
        computed = chat.usage.prompt_tokens - chat.usage.cached_tokens
        used.append(used[-1] + min(computed, 40) + chat.usage.completion_tokens)
    eighth = len(times) // 8
    early, late = times[eighth : 3 * eighth], times[-2 * eighth :]
    report([statistics.mean(late) / statistics.mean(early)])


KINDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "second_turn": second_turn,
    "second_turn_ahead": second_turn_ahead,
    "switching": switching,
    "switch_cost": switch_cost,
    "load_session": load_session,
    "long_session": long_session,
}
