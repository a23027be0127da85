"""The outermost layer: request ids, security headers, the access log, metrics, the last resort."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from llamacffi.server.answers import error_response
from llamacffi.server.errors import ClientGoneError
from llamacffi.server.scope import KEY, Passage, route_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from llamacffi.server.state import Operation

__all__ = ["Passing"]

_log = logging.getLogger("llamacffi.server")
CLIENT_CLOSED = 499  # nginx's: nobody gets it, but the log and the metrics say so
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'",
    ),
)


class Passing:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, state: Operation) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = Passage.of_headers(dict(scope["headers"]))
        scope[KEY] = passage
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = (b"x-request-id", passage.request_id.encode())
                given = [*message.get("headers", ()), own]
                named = {name.lower() for name, _ in given}  # the page has a policy of its own
                message["headers"] = given + [head for head in HEADERS if head[0] not in named]
            await send(message)

        metrics = self._state.metrics
        metrics.open.inc()
        try:
            await self._app(scope, receive, sending)
        except ClientGoneError as gone:
            # Its words: logs are kept, and the frames of its traceback hold native objects.
            _log.info("%s ended early: %s", passage.request_id, str(gone))
            status = CLIENT_CLOSED
        except Exception as error:
            _log.exception("%s failed", passage.request_id)
            if status:
                raise  # too late for a status: the server closes the connection
            await error_response(error, passage.request_id)(scope, receive, sending)
        finally:
            metrics.open.dec()
            metrics.answered(route_of(scope), status, passage.seconds)
            _log.info(
                "%s %s %s %r -> %s in %.3f s",
                passage.request_id,
                passage.caller or "-",
                scope["method"],
                scope["path"],
                status,
                passage.seconds,
            )
