"""Await something that several events can end early: a client that leaves, a server that stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from llamacffi.server.errors import ClientGoneError

__all__ = ["Receive", "first_of", "vanished"]

R = TypeVar("R")
Receive = Callable[[], Awaitable[Any]]


async def first_of(wanted: Coroutine[Any, Any, R], *ends: Coroutine[Any, Any, None]) -> R:
    """The result of a coroutine, unless one of the others ends first.

    Args:
        wanted: What is waited for; it is cancelled when something else ends first.
        ends: Each raises when its event comes.

    Returns:
        What `wanted` returned. What ended first and raised is raised here.
    """
    main = asyncio.ensure_future(wanted)
    others = [asyncio.ensure_future(end) for end in ends]
    try:
        await asyncio.wait((main, *others), return_when=asyncio.FIRST_COMPLETED)
        if not main.done():
            for other in others:
                if other.done():
                    other.result()
        return await main
    finally:
        for task in (main, *others):
            task.cancel()
        # Each is waited for, so that nothing computes any more when this returns.
        await asyncio.gather(main, *others, return_exceptions=True)


async def vanished(receive: Receive) -> None:
    """Wait until the client closes the connection.

    Raises:
        ClientGoneError: It has.
    """
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("The client closed the connection.")
