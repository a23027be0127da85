"""How much one client may ask for."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

from llamacffi.server.answers import error_response
from llamacffi.server.errors import RETRY_SECONDS, ApiError, StoppingError
from llamacffi.server.scope import passage_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from llamacffi.server.state import Operation

__all__ = ["Limits"]


class Limits:
    """ASGI middleware: bounds the size of bodies, the time they take, and requests at a time.

    Only requests that have a body count: the others cost nothing.
    """

    def __init__(self, app: ASGIApp, state: Operation) -> None:
        self._app = app
        self._state = state
        self._running: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        passage = passage_of(scope)
        caller = passage.caller
        try:
            self._check(caller)
            announced = dict(scope["headers"]).get(b"content-length", b"0")
            self._check_size(int(announced) if announced.isdigit() else 0)
        except ApiError as error:
            await error_response(error, passage.request_id)(scope, receive, send)
            return
        self._running[caller] += 1
        try:
            await self._app(scope, self._bounded(receive), send)
        finally:
            self._running[caller] -= 1
            if not self._running[caller]:
                del self._running[caller]

    def _check(self, caller: str) -> None:
        if self._state.stopping:
            raise StoppingError
        most = self._state.settings.per_key_max
        if most is not None and self._running[caller] >= most:
            raise ApiError(
                429,
                f"You have {most} requests running, which is as many as you may. Wait for one.",
                kind="requests",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )

    def _check_size(self, size: int) -> None:
        most = self._state.settings.body_bytes_max
        if size > most:
            raise ApiError(
                413,
                f"The body has more than {most} bytes, which is the most this server takes.",
                code="request_too_large",
                headers={"Connection": "close"},
            )

    def _bounded(self, receive: Receive) -> Receive:
        deadline = time.monotonic() + self._state.settings.body_timeout
        size, complete = 0, False

        async def receiving() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0, deadline - time.monotonic()))
            except asyncio.TimeoutError:
                raise ApiError(
                    408,
                    "The body did not arrive in time.",
                    code="request_timeout",
                    headers={"Connection": "close"},
                ) from None
            size += len(message.get("body", b""))
            self._check_size(size)
            complete = not message.get("more_body", False)
            return message

        return receiving
