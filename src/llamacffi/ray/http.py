"""A small HTTP interface in OpenAI's shapes, before the replicas."""

from __future__ import annotations

import inspect
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from llamacffi.errors import (
    BusyError,
    DeadlineError,
    LlamaCffiError,
    ReplicaDiedError,
    UnsupportedError,
)
from llamacffi.ray.client import AsyncEngineClient
from llamacffi.ray.replica import METHODS, Kind

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = ["Front"]

PATHS: dict[str, Kind] = {
    "/v1/completions": "completion",
    "/v1/chat/completions": "chat",
    "/v1/embeddings": "embedding",
    "/v1/rerank": "rerank",
}
# Python objects, and texts that may be taken for the path of a file.
NOT_OVER_HTTP = {"self", "sampling", "logits_processor", "stopping_criteria", "grammar"}
OTHER_NAMES = {"max_completion_tokens": "max_tokens"}
N_CHOICES_MAX = 32
_log = logging.getLogger("llamacffi.ray")


class Front:
    """Takes requests over HTTP and passes them on to the replicas; Ray Serve makes it.

    Args:
        replicas: Who answers.
        name: The model's name.
    """

    def __init__(self, replicas: DeploymentHandle, name: str) -> None:
        self._client = AsyncEngineClient(replicas)
        self._name = name
        self._since = int(time.time())

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        path = request.url.path
        if path == "/health" and request.method == "GET":
            return JSONResponse({"status": "ok"})
        if path == "/v1/models" and request.method == "GET":
            return JSONResponse({"object": "list", "data": [self._described()]})
        kind = PATHS.get(path)
        if kind is None:
            return _refusal(404, f"There is no {path}. There are {', '.join(PATHS)}.")
        if request.method != "POST":
            return _refusal(405, f"{path} wants POST.")
        try:
            return await self._answered(kind, _arguments(kind, await request.body(), self._name))
        except Exception as error:
            return _refusal_of(error)

    async def _answered(self, kind: Kind, arguments: dict[str, Any]) -> Response:
        methods: dict[Kind, Callable[..., Any]] = {
            "completion": self._client.create_completion,
            "chat": self._client.create_chat_completion,
            "embedding": self._client.create_embedding,
            "rerank": self._client.rerank,
        }
        answer = await methods[kind](**arguments)
        if not arguments.get("stream"):
            return JSONResponse(answer)
        # What goes wrong before the first piece gets a status of its own.
        first = await anext(answer)
        return StreamingResponse(_events(first, answer), media_type="text/event-stream")

    def _described(self) -> dict[str, Any]:
        return {
            "id": self._name,
            "object": "model",
            "created": self._since,
            "owned_by": "llamacffi",
        }


async def _events(first: Any, pieces: AsyncIterator[Any]) -> AsyncIterator[str]:
    yield _event(first)
    try:
        async for piece in pieces:
            yield _event(piece)
    except Exception as error:
        yield _event(_body(error))
    else:
        yield "data: [DONE]\n\n"


def _event(data: Any) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _arguments(kind: Kind, body: bytes, name: str) -> dict[str, Any]:
    """The arguments of a method that the body of a request stands for."""
    asked: dict[str, Any] = json.loads(body)
    if not isinstance(asked, dict):
        raise TypeError("The body is not a JSON object.")
    allowed = inspect.signature(METHODS[kind]).parameters.keys() - NOT_OVER_HTTP
    arguments = {OTHER_NAMES.get(key, key): value for key, value in asked.items()}
    unknown = sorted(arguments.keys() - allowed)
    if unknown:
        raise TypeError(f"Unknown fields: {', '.join(unknown)[:200]}.")
    for many in ("n", "best_of"):
        if isinstance(value := arguments.get(many), int) and value > N_CHOICES_MAX:
            raise ValueError(f"{many}={value}: at most {N_CHOICES_MAX} answers are given.")
    return {**arguments, "model": name}


def _status(error: Exception) -> int:
    for kind, status in (
        (BusyError, 429),
        (DeadlineError, 504),
        (ReplicaDiedError, 503),
        ((ValueError, TypeError, UnsupportedError), 400),
    ):
        if isinstance(error, kind):
            return status
    return 500


def _body(error: Exception) -> dict[str, Any]:
    own = isinstance(error, LlamaCffiError | ValueError | TypeError)
    kind = "invalid_request_error" if _status(error) == 400 else "server_error"
    message = str(error) if own else "The server failed; its log says why."
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _refusal_of(error: Exception) -> Response:
    if _status(error) == 500:
        _log.error("A request failed", exc_info=error)
    return JSONResponse(_body(error), _status(error))


def _refusal(status: int, message: str) -> Response:
    kind = "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status)
