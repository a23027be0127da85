"""Passes requests on to workers, and their answers back."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import orjson

from llamacffi.server.ending import first_of, vanished
from llamacffi.server.errors import ApiError, ClientGoneError, StoppingError
from llamacffi.server.passing import HEADERS
from llamacffi.server.scope import passage_of
from llamacffi.server.stalling import Writing
from llamacffi.server.streaming import DONE
from llamacffi.server.workers.affinity import affinity_of
from llamacffi.server.workers.balance import Balance
from llamacffi.server.workers.errors import NoWorkerError, WorkerLostError
from llamacffi.server.workers.process import Phase, WorkerProcess
from llamacffi.server.workers.routes import address_of
from llamacffi.server.workers.upstream import Exchange, LostError, UpstreamRequest, exchange

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from llamacffi.server.state import Operation
    from llamacffi.server.workers.supervisor import Supervisor

__all__ = ["Proxy"]

END_SECONDS = 1.0  # in which it becomes known why a connection was lost
EVENT_END = b"\n\n"
# What concerns a connection; what the layers in front have done or do.
NOT_TO_WORKERS = {
    b"authorization", b"connection", b"content-length", b"expect", b"keep-alive", b"origin",
    b"proxy-authorization", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
    b"upgrade", b"x-request-id",
}  # fmt: skip
NOT_TO_CLIENTS = {b"connection", b"date", b"keep-alive", b"transfer-encoding", b"x-request-id"}
_log = logging.getLogger("llamacffi.server")


class Proxy:
    """ASGI application: the workers as one.

    A request of which no byte has been answered when its worker is lost is given to another one,
    once: nothing that is asked here changes anything. But if the worker crashed, the request may be
    why, and would bring down one worker after the other.

    Args:
        supervisor: Has the workers.
        operation: What the parts of the application share.
    """

    def __init__(self, supervisor: Supervisor, operation: Operation) -> None:
        self._supervisor = supervisor
        self._operation = operation
        self._balance = Balance()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        scope["route"] = address_of(scope["path"])
        request = await _read(scope, receive)
        writing = Writing(send, self._operation.settings.stall_timeout)
        passed = self._answer(request, passage_of(scope).request_id, send, writing)
        try:
            await first_of(passed, vanished(receive), writing.stalled())
        except ClientGoneError:
            self._operation.metrics.ended.labels("client").inc()
            raise

    async def _answer(
        self, request: UpstreamRequest, request_id: str, send: Send, writing: Writing
    ) -> None:
        key = affinity_of(request.body)
        lost: WorkerProcess | None = None
        while True:
            process = self._choose(key, lost)
            _log.info("%s goes to worker %s", request_id, process.number)
            try:
                with process.answering():
                    await self._pass(process, request, send, writing)
                return
            except LostError as error:
                end = await process.ended_within(END_SECONDS)
                _log.warning(
                    "%s: worker %s is lost (%s) before its answer",
                    request_id, process.number, error if end is None else end.reason,
                )  # fmt: skip
                if self._operation.stopping:
                    raise StoppingError from None
                if lost is not None or (end is not None and end.crashed):
                    raise WorkerLostError from None
                lost = process

    def _choose(self, key: int | None, lost: WorkerProcess | None) -> WorkerProcess:
        for phase in (Phase.READY, Phase.SILENT):
            found = [one for one in self._supervisor.processes(phase) if one is not lost]
            if found:
                return self._balance.choose(found, key)
        if self._operation.stopping:
            raise StoppingError
        if lost is not None:
            raise WorkerLostError
        raise NoWorkerError(bool(self._supervisor.processes(Phase.STARTING, Phase.LOADING)))

    async def _pass(
        self, process: WorkerProcess, request: UpstreamRequest, send: Send, writing: Writing
    ) -> None:
        """Raises LostError if the answer was lost before its first byte was sent."""
        async with exchange(process.socket, request) as answer:
            await answer.begin()
            kept = [
                header
                for header in answer.headers
                if header[0] not in NOT_TO_CLIENTS and header not in HEADERS
            ]
            head = {"type": "http.response.start", "status": answer.status, "headers": kept}
            if dict(kept).get(b"content-type", b"").startswith(b"text/event-stream"):
                await self._stream(answer, head, send, writing)
            else:
                # As a whole, so that it can still be asked of another worker.
                body = b"".join([piece async for piece in answer.pieces()])
                await send(head)
                await writing.body(body, more=False)

    async def _stream(self, answer: Exchange, head: Message, send: Send, writing: Writing) -> None:
        begun, passed, held = False, b"", b""
        try:
            async for piece in answer.pieces():
                passed, held = whole_events(held + piece)
                if passed:
                    if not begun:
                        await send(head)
                        begun = True
                    await writing.body(passed)
        except LostError:
            if not begun:
                raise
            if not passed.endswith(DONE):
                self._operation.metrics.ended.labels("worker_lost").inc()
                stopping = self._operation.stopping
                error: ApiError = StoppingError() if stopping else WorkerLostError()
                held = b"data: %b\n\n" % orjson.dumps(error.body())
        if not begun:
            await send(head)
        await writing.body(held, more=False)


def whole_events(received: bytes) -> tuple[bytes, bytes]:
    """Up to the end of the last event that is complete, and what comes after."""
    if received.endswith(EVENT_END):
        return received, b""
    end = received.rfind(EVENT_END)
    if end < 0:
        return b"", received
    end += len(EVENT_END)
    return received[:end], received[end:]


async def _read(scope: Scope, receive: Receive) -> UpstreamRequest:
    target = scope.get("raw_path") or scope["path"].encode()
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    headers = [header for header in scope["headers"] if header[0] not in NOT_TO_WORKERS]
    headers.append((b"x-request-id", passage_of(scope).request_id.encode()))
    body = await _body(receive) if scope["method"] == "POST" else b""
    return UpstreamRequest(scope["method"].encode(), target, headers, body)


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("The client closed the connection.")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
