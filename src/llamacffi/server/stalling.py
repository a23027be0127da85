"""Clients that do not read what they asked for."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from llamacffi.server.errors import ClientGoneError

if TYPE_CHECKING:
    from starlette.types import Message, Send

__all__ = ["Writing"]


class Writing:
    """Sends messages, and knows for how long one has waited.

    Args:
        send: Sends a message; waits while the client does not read.
        limit: Seconds that it may wait.
    """

    def __init__(self, send: Send, limit: float) -> None:
        self._send = send
        self._limit = limit
        self._since: float | None = None

    async def body(self, body: bytes, more: bool = True) -> None:
        """Send a part of a body."""
        message: Message = {"type": "http.response.body", "body": body, "more_body": more}
        self._since = time.monotonic()
        await self._send(message)
        self._since = None

    async def stalled(self) -> None:
        """Wait until the client has not read for too long.

        Raises:
            ClientGoneError: It has not.
        """
        while True:
            await asyncio.sleep(self._limit / 4)
            if self._since is not None and time.monotonic() - self._since > self._limit:
                raise ClientGoneError(f"The client has read nothing for {self._limit:g} seconds.")
