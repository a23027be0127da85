"""What goes on at a server in an hour: answers of all kinds, people who hang up, and mistakes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from benchmarks.serving import texts
from benchmarks.serving.http_client import Address, Connection, ProtocolError
from benchmarks.serving.load import PATH

MAX_TOKENS = 6
LONG_PROMPT = 12  # times a user's text
TIMEOUT_SECONDS = 300
SCHEMA = {
    "type": "object",
    "properties": {"happy": {"type": "boolean"}, "mood": {"enum": ["good", "bad"]}},
    "required": ["happy", "mood"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "note", "description": "Take a note.", "parameters": SCHEMA},
}
Body = dict[str, object]


def chat(number: int, **changes: object) -> Body:
    """A short conversation, like no other."""
    text = f"{texts.OPENINGS[number % len(texts.OPENINGS)]} something about the number {number}."
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    return {"model": "default", "messages": messages, "max_tokens": MAX_TOKENS, **changes}


def expect(condition: bool, what: object) -> None:
    if not condition:
        raise ProtocolError(f"Unexpected: {what}")


async def whole(server: Address, number: int) -> None:
    await complete(server, chat(number))


async def long_prompt(server: Address, number: int) -> None:
    text = " ".join(texts.user(number + part) for part in range(LONG_PROMPT))
    await complete(server, chat(number, messages=[{"role": "user", "content": text}]))


async def complete(server: Address, body: Body) -> dict[str, object]:
    """The message of the answer, which must be one, with its usage."""
    async with await server.post(PATH, body) as answer:
        result = await answer.json()
        expect(answer.status == 200, result)
        expect(result["usage"]["completion_tokens"] > 0, result)
        message = result["choices"][0]["message"]
        return {**message, "finish_reason": result["choices"][0]["finish_reason"]}


async def streamed(server: Address, number: int) -> None:
    finish = None
    async with await server.post(PATH, chat(number, stream=True)) as answer:
        expect(answer.status == 200, answer.status)
        async for event in answer.events():
            for choice in event["choices"]:
                finish = choice.get("finish_reason") or finish
    expect(finish in ("length", "stop"), finish)


async def cancelled(server: Address, number: int) -> None:
    """Hang up after the third piece of a long answer."""
    body = chat(number, stream=True, max_tokens=200)
    async with await server.post(PATH, body) as answer:
        expect(answer.status == 200, answer.status)
        pieces = 0
        async for _ in answer.events():
            pieces += 1
            if pieces == 3:
                return


async def vanished(server: Address, number: int) -> None:
    """Hang up while the server works on an answer that is not streamed."""
    async with await server.connect() as connection:
        body = chat(number, max_tokens=200)
        connection.send("POST", PATH, json.dumps(body).encode())
        await asyncio.sleep(number % 10 / 50)


async def vanished_asking(server: Address, number: int) -> None:
    """Hang up in the middle of the request."""
    async with await server.connect() as connection:
        body = json.dumps(chat(number)).encode()
        connection.send("POST", PATH, body[: len(body) // 2], length=len(body))
        await asyncio.sleep(0.01)


async def schema(server: Address, number: int) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "mood", "schema": SCHEMA}}
    body = chat(number, response_format=response_format, max_tokens=48)
    message = await complete(server, body)
    if message["finish_reason"] == "stop":
        content = json.loads(str(message["content"]))
        expect(set(content) == {"happy", "mood"}, content)


async def tool(server: Address, number: int) -> None:
    body = chat(number, tools=[TOOL], tool_choice="required", max_tokens=64)
    message = await complete(server, body)
    called = bool(message.get("tool_calls"))
    expect(called or message["finish_reason"] == "length", message)


async def mistake(server: Address, number: int) -> None:
    """What no server can answer, and must refuse in time."""
    too_long = [{"role": "user", "content": "far too long " * 3000}]
    bodies = (
        b'{"messages": [',
        json.dumps({"model": "default", "messages": "none"}).encode(),
        json.dumps(chat(number, messages=too_long)).encode(),
        json.dumps(chat(number, max_tokens="many")).encode(),
    )
    async with await server.connect() as connection:
        connection.send("POST", PATH, bodies[number % len(bodies)])
        await refused(connection)


async def wrong_path(server: Address, number: int) -> None:
    async with await server.connect() as connection:
        connection.send("GET", f"/v1/nothing/{number}", b"")
        await refused(connection)


async def refused(connection: Connection) -> None:
    await connection.read_head()
    text = await connection.body()
    expect(400 <= connection.status < 500, f"status {connection.status}: {text[:300]!r}")


# How many of a hundred requests are of each kind.
SHARES: dict[Callable[[Address, int], Awaitable[None]], int] = {
    streamed: 36,
    whole: 26,
    cancelled: 10,
    vanished: 8,
    vanished_asking: 2,
    schema: 5,
    tool: 3,
    mistake: 6,
    wrong_path: 2,
    long_prompt: 2,
}


@dataclass
class Traffic:
    """Mixed requests by some clients; the same ones in each run.

    Attributes:
        server: Whom to ask.
        clients: How many ask at the same time.
        made: Requests so far, by kind.
        failures: Those that went otherwise than they should.
    """

    server: Address
    clients: int
    made: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _random: Random = field(default_factory=lambda: Random(1))

    async def flow(self, requests: int, seconds: float) -> None:
        """Make so many requests, or as many as there is time for."""
        loop = asyncio.get_running_loop()
        deadline, end = loop.time() + seconds, self.made.total() + requests

        async def client() -> None:
            while self.made.total() < end and loop.time() < deadline:
                await self._one()

        await asyncio.gather(*(client() for _ in range(self.clients)))

    async def _one(self) -> None:
        (kind,) = self._random.choices(list(SHARES), list(SHARES.values()))
        self.made[kind.__name__] += 1
        number = self.made.total()
        try:
            await asyncio.wait_for(kind(self.server, number), TIMEOUT_SECONDS)
        except (OSError, ValueError, LookupError, EOFError, ProtocolError) as error:
            self.failures.append(f"{kind.__name__} {number}: {type(error).__name__}: {error}")
        except asyncio.TimeoutError:
            self.failures.append(f"{kind.__name__} {number}: no end after {TIMEOUT_SECONDS} s")
