"""HTTP to a worker: a connection for each request, and its answer as it comes.

A connection to a socket of this machine costs less than to find out whether an older one is still
good, and one request can be lost with it at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httptools

__all__ = ["Exchange", "LostError", "UpstreamRequest", "exchange"]

Headers = Sequence[tuple[bytes, bytes]]
READ_BYTES = 64 * 1024


class LostError(Exception):
    """The connection ended before the answer did."""


@dataclass(frozen=True)
class UpstreamRequest:
    """A request whose body is known.

    Attributes:
        method: GET and so on.
        target: The path and the query.
        headers: Without Content-Length and what concerns the connection.
        body: The body.
    """

    method: bytes
    target: bytes
    headers: Headers = ()
    body: bytes = b""

    def encoded(self) -> bytes:
        """As it is sent."""
        lines = [b"%b %b HTTP/1.1" % (self.method, self.target)]
        lines += (b"%b: %b" % header for header in self.headers)
        lines += (b"connection: close", b"content-length: %d" % len(self.body), b"", self.body)
        return b"\r\n".join(lines)


class Exchange:
    """A request that was sent, and its answer.

    Attributes:
        status: The status, after `begin`.
        headers: The headers, after `begin`; their names are in lower case.
    """

    def __init__(self, reader: asyncio.StreamReader, bodiless: bool) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._reader = reader
        self._bodiless = bodiless
        self._parser = httptools.HttpResponseParser(self)
        self._begun = False
        self._complete = False
        self._pieces: list[bytes] = []

    async def begin(self) -> None:
        """Wait for the head of the answer.

        Raises:
            LostError: There is none.
        """
        while not self._begun:
            await self._more()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, as it comes; to be called once, after `begin`.

        Raises:
            LostError: It ends too early.
        """
        while True:
            if self._pieces:
                piece = b"".join(self._pieces)
                self._pieces.clear()
                yield piece
            elif self._complete:
                return
            else:
                await self._more()

    async def _more(self) -> None:
        try:
            received = await self._reader.read(READ_BYTES)
            if not received:
                raise LostError("The worker closed the connection.")
            self._parser.feed_data(received)
        except (OSError, httptools.HttpParserError) as error:
            raise LostError(str(error)) from None

    # -- httptools calls these

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is there."""
        self.status = self._parser.get_status_code()
        self._begun = True
        self._complete = self._bodiless

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """The answer is there."""
        self._complete = True


@asynccontextmanager
async def exchange(socket: str, request: UpstreamRequest) -> AsyncIterator[Exchange]:
    """Send a request; at the end of the block the connection is closed.

    Args:
        socket: The path of the worker's socket.
        request: The request.

    Raises:
        LostError: There is no worker, or it is gone.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except OSError as error:
        raise LostError(str(error)) from None
    try:
        writer.write(request.encoded())
        yield Exchange(reader, bodiless=request.method == b"HEAD")
    finally:
        # At once, whatever was not yet sent: a worker has to notice that nobody waits.
        writer.transport.abort()
