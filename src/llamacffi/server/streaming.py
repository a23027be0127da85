"""Server-sent events: one write for each chunk, and an end when nobody reads."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Protocol

import orjson
from starlette.responses import StreamingResponse

from llamacffi.server.ending import first_of, vanished
from llamacffi.server.errors import ApiError, ClientGoneError, api_error
from llamacffi.server.scope import passage_of, route_of
from llamacffi.server.stalling import Writing

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from llamacffi.server.state import State

__all__ = ["DONE", "Chunks", "EventStream"]

DONE = b"data: [DONE]\n\n"
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Type": "text/event-stream; charset=utf-8",
    "X-Accel-Buffering": "no",  # nginx passes it on as it comes
}
_log = logging.getLogger("llamacffi.server")


class Chunks(Protocol):
    """What an engine streams: dictionaries, until it is closed."""

    def __aiter__(self) -> AsyncIterator[Any]:
        """Itself."""

    async def __anext__(self) -> Any:
        """The next chunk."""

    async def aclose(self) -> None:
        """Stop computing."""


class EventStream(StreamingResponse):
    """A stream of chunks, the first of which has been computed.

    Args:
        first: The first chunk.
        chunks: The others; closed at the end, whatever the end is.
        state: The application's.
        on_end: Called when the stream is over.
    """

    def __init__(
        self, first: Any, chunks: Chunks, state: State, on_end: Callable[[], None]
    ) -> None:
        super().__init__((), 200, HEADERS)
        self._first = first
        self._chunks = chunks
        self._state = state
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, until it ends, the client leaves or the server stops."""
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        request_id = passage_of(scope).request_id
        writing = Writing(send, self._state.settings.stall_timeout)
        try:
            await first_of(
                self._pump(scope, head, send, writing),
                vanished(receive),
                writing.stalled(),
                self._state.stopped(),
            )
        except ClientGoneError:
            self._state.metrics.ended.labels("client").inc()
            raise
        except Exception as error:
            shown = api_error(error, request_id)
            if not isinstance(error, ApiError):
                # Words, not the exception: its frames hold native objects, and logs are kept.
                _log.log(
                    logging.ERROR if shown.status_code == 500 else logging.WARNING,
                    "%s failed in mid-stream: %s",
                    request_id,
                    "".join(traceback.format_exception_only(error)).strip(),
                    exc_info=shown.status_code == 500,
                )
            self._state.metrics.ended.labels("error").inc()
            last = b"data: %b\n\n" % orjson.dumps(shown.body())
            await send({"type": "http.response.body", "body": last, "more_body": False})
        finally:
            try:
                await self._chunks.aclose()
            finally:
                self._on_end()

    async def _pump(self, scope: Scope, head: dict[str, Any], send: Send, writing: Writing) -> None:
        await send(head)
        dumps, write = orjson.dumps, writing.body
        await write(b"data: %b\n\n" % dumps(self._first))
        waiting = not _has_text(self._first)
        if not waiting:
            self._count_first(scope)
        async for chunk in self._chunks:
            await write(b"data: %b\n\n" % dumps(chunk))
            if waiting and _has_text(chunk):
                self._count_first(scope)
                waiting = False
        await write(DONE, more=False)

    def _count_first(self, scope: Scope) -> None:
        self._state.metrics.first_token(route_of(scope), passage_of(scope).seconds)


def _has_text(chunk: Any) -> bool:
    """Whether a chunk is more than the announcement of a role, or an end."""
    texts = ("content", "reasoning_content", "tool_calls")
    return any(
        choice.get("text") or any(choice.get("delta", {}).get(key) for key in texts)
        for choice in chunk["choices"]
    )
