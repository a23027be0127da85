"""The little of HTTP/1.1 that load needs: one connection a request, answers as they come.

Written out because the one who asks shares its processors with the server that is measured: an
ordinary client takes several times as much of them. It can also hang up at any point.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

HEAD = (
    "{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
)


class ProtocolError(RuntimeError):
    """What came back is not what a server should say."""


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    async def connect(self) -> Connection:
        return Connection(self, *await asyncio.open_connection(self.host, self.port))

    async def post(self, path: str, body: object) -> Connection:
        """Ask, and read the answer as far as its headers."""
        connection = await self.connect()
        try:
            connection.send("POST", path, json.dumps(body).encode())
            await connection.read_head()
        except BaseException:
            connection.abort()
            raise
        return connection


class Connection:
    """One request and its answer. Leaving it closes it, whatever the server is doing."""

    def __init__(
        self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._address = address
        self._reader = reader
        self._writer = writer
        self.status = 0
        self._headers: dict[str, str] = {}

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()

    def send(self, method: str, path: str, body: bytes, length: int | None = None) -> None:
        """Send a request; with `length`, one that claims to be as long as that."""
        head = HEAD.format(
            method=method,
            path=path,
            host=self._address.host,
            port=self._address.port,
            length=len(body) if length is None else length,
        )
        self._writer.write(head.encode() + body)

    def abort(self) -> None:
        """Hang up at once."""
        self._writer.transport.abort()

    async def read_head(self) -> None:
        line, *others = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        try:
            self.status = int(line.split()[1])
        except (LookupError, ValueError):
            raise ProtocolError(f"This is no status line: {line!r}") from None
        pairs = (other.partition(":") for other in others if other)
        self._headers = {name.lower(): value.strip() for name, _, value in pairs}

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def json(self) -> Any:
        return json.loads(await self.body())

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        if "chunked" in self._headers.get("transfer-encoding", "").lower():
            while length := int(await self._reader.readuntil(b"\r\n"), 16):
                yield (await self._reader.readexactly(length + 2))[:-2]
        elif "content-length" in self._headers:
            yield await self._reader.readexactly(int(self._headers["content-length"]))
        else:
            yield await self._reader.read()

    async def events(self) -> AsyncIterator[Any]:
        """The server-sent events, read as JSON, up to `[DONE]`."""
        rest = b""
        async for piece in self.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield json.loads(data)
        raise ProtocolError("The stream ended without [DONE].")
