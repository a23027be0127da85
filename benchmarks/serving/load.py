"""The load: clients that each ask, read the streamed answer to its end, and ask again.

Run as a process of its own, with the job as JSON in its argument (see `Job`). Prints as JSON what
each request took, and how much of a processor it took itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from benchmarks.serving import texts
from benchmarks.serving.http_client import Address, ProtocolError

PATH = "/v1/chat/completions"
WARM_UP_CLIENTS = 8
WARM_UP_TOKENS = 8
WARM_UP_TEXTS = 100_000  # numbers of texts that no measured request uses


@dataclass(frozen=True)
class Job:
    """What to ask for.

    Attributes:
        port: Of the server, on loopback.
        clients: How many ask at the same time.
        requests: How many each of them makes, one after the other.
        tokens: To generate per answer; a shorter or longer answer is an error.
        shared_system: Whether all send the same long system prompt.
        extras: Added to each request, for what a server calls by another name.
        timeout: Seconds for each request.
    """

    port: int
    clients: int
    requests: int
    tokens: int
    shared_system: bool = False
    extras: Mapping[str, object] = field(default_factory=dict)
    timeout: float = 600


@dataclass
class Record:
    """One request.

    Attributes:
        started: Seconds since the first request of all.
        arrivals: Seconds from its start to each piece of the text.
        total: Seconds to its end.
        tokens: Generated.
        prompt_tokens: As the server counts them; 0 if it does not say.
        error: What went wrong, or None.
    """

    started: float
    arrivals: list[float] = field(default_factory=list)
    total: float = 0
    tokens: int = 0
    prompt_tokens: int = 0
    error: str | None = None


def request_body(job: Job, number: int, tokens: int, shared_system: bool) -> dict[str, object]:
    messages = [{"role": "user", "content": texts.user(number)}]
    if shared_system:
        messages.insert(0, {"role": "system", "content": texts.system()})
    return {
        "model": "default",
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **job.extras,
    }


async def ask(job: Job, body: dict[str, object], begun: float) -> Record:
    """Make one request; whatever goes wrong is noted in its record."""
    started = time.perf_counter()
    record = Record(started - begun)
    try:
        await asyncio.wait_for(follow(job, body, record, started), job.timeout)
    except (OSError, ValueError, EOFError, ProtocolError, asyncio.TimeoutError) as error:
        record.error = f"{type(error).__name__}: {error}"
    record.total = time.perf_counter() - started
    return record


async def follow(job: Job, body: dict[str, object], record: Record, started: float) -> None:
    finish = None
    async with await Address("127.0.0.1", job.port).post(PATH, body) as answer:
        if answer.status != 200:
            raise ProtocolError(f"status {answer.status}: {(await answer.body())[:300]!r}")
        async for event in answer.events():
            now = time.perf_counter()
            if usage := event.get("usage"):
                record.tokens = usage["completion_tokens"]
                record.prompt_tokens = usage["prompt_tokens"]
            for choice in event.get("choices", ()):
                if choice["delta"].get("content"):
                    record.arrivals.append(now - started)
                finish = choice.get("finish_reason") or finish
    if finish != "length":
        raise ProtocolError(f"The answer ended by {finish!r}, not by its length.")
    asked = body["max_tokens"]
    record.tokens = record.tokens or int(str(asked))  # llama-cpp-python's streams do not count
    if record.tokens != asked or not record.arrivals:
        raise ProtocolError(f"{record.tokens} tokens came, not {asked}.")


async def warm_up(job: Job) -> None:
    numbers = range(WARM_UP_TEXTS, WARM_UP_TEXTS + min(job.clients, WARM_UP_CLIENTS))
    bodies = [request_body(job, number, WARM_UP_TOKENS, False) for number in numbers]
    begun = time.perf_counter()
    for record in await asyncio.gather(*(ask(job, body, begun) for body in bodies)):
        if record.error:
            raise SystemExit(f"While warming up: {record.error}")


async def one_client(job: Job, client: int, begun: float) -> list[Record]:
    records = []
    for turn in range(job.requests):
        number = 1 + client + turn * job.clients
        body = request_body(job, number, job.tokens, job.shared_system)
        records.append(await ask(job, body, begun))
    return records


async def run(job: Job) -> dict[str, object]:
    await warm_up(job)
    begun, cpu = time.perf_counter(), time.process_time()
    rows = await asyncio.gather(*(one_client(job, number, begun) for number in range(job.clients)))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    records = [asdict(record) for row in rows for record in row]
    return {"records": records, "seconds": seconds, "cpu_share": cpu / seconds}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Job(**json.loads(sys.argv[1]))))))
