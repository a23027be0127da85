"""From a checked request to the engine, and from its answer to the client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request
from fastapi.responses import Response

from llamacffi.server.answers import Json
from llamacffi.server.ending import first_of, vanished
from llamacffi.server.errors import ClientGoneError
from llamacffi.server.models import ServedModel
from llamacffi.server.state import State
from llamacffi.server.streaming import EventStream

if TYPE_CHECKING:
    from llamacffi.engine import AsyncEngine

__all__ = ["Ask", "answered", "computed", "streamed"]

R = TypeVar("R")
# Calls an engine for a model.
Ask = Callable[["AsyncEngine", ServedModel], Awaitable[Any]]


async def answered(state: State, request: Request, name: str | None, ask: Ask) -> Response:
    """The whole answer, as JSON."""
    return Json(await computed(state, request, name, ask))


async def computed(state: State, request: Request, name: str | None, ask: Ask) -> Any:
    """What an engine answers, unless the client leaves or the server stops before."""

    async def compute() -> Any:
        served = await state.models.get(name)
        try:
            return await ask(_engine(state, served), served)
        finally:
            state.models.release(served)

    return await _unless_ended(state, request, compute())


async def streamed(state: State, request: Request, name: str | None, ask: Ask) -> Response:
    """The answer in pieces, as server-sent events.

    The first piece is awaited here: what goes wrong before it becomes an error with a status.
    """

    async def begin() -> EventStream:
        served = await state.models.get(name)
        with ExitStack() as on_error:
            on_error.callback(state.models.release, served)
            chunks = await ask(_engine(state, served), served)
            first = await chunks.__anext__()
            on_error.pop_all()
        return EventStream(first, chunks, state, lambda: state.models.release(served))

    return await _unless_ended(state, request, begin())


def _engine(state: State, served: ServedModel) -> AsyncEngine:
    settings = state.settings
    return served.engine.with_options(
        timeout=settings.timeout, n_prompt_max=settings.prompt_tokens_max
    )


async def _unless_ended(state: State, request: Request, answer: Coroutine[Any, Any, R]) -> R:
    try:
        return await first_of(answer, vanished(request.receive), state.stopped())
    except ClientGoneError:
        state.metrics.ended.labels("client").inc()
        raise
