"""Asking served engines, from threads or from asyncio; a replica that dies costs no request."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from llamacffi.chat_completing import ChatCompleting
from llamacffi.completing import Completing
from llamacffi.engine import Engine
from llamacffi.errors import ParameterError
from llamacffi.ray.delivery import Attempts, Delivery
from llamacffi.ray.replica import METHODS, Kind

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = ["AsyncEngineClient", "EngineClient"]

P = ParamSpec("P")
F = TypeVar("F")
N_ATTEMPTS = 3


class _Client:
    """What both clients know.

    Args:
        handle: Of the deployment: what `serve.run(application(...))` returns, or
            `serve.get_deployment_handle(...)`.
        n_attempts: To how many replicas a request is given, one after the other, should they die.
    """

    def __init__(self, handle: DeploymentHandle, *, n_attempts: int = N_ATTEMPTS) -> None:
        if n_attempts < 1:
            raise ParameterError(f"n_attempts={n_attempts}: choose 1 or more.")
        self._n_attempts = n_attempts
        self._whole = handle.options(method_name="ask")
        self._streamed = handle.options(method_name="stream", stream=True)


def _asked(
    kind: Kind, method: Callable[Concatenate[F, P], Any]
) -> Callable[Concatenate[EngineClient, P], Any]:
    @functools.wraps(method)
    def call(self: EngineClient, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        arguments = _bound(kind, args, kwargs)
        if arguments.get("stream"):
            return self._stream(kind, arguments)
        return self._ask(kind, arguments)

    return call


def _awaited(
    kind: Kind, method: Callable[Concatenate[F, P], Any]
) -> Callable[Concatenate[AsyncEngineClient, P], Coroutine[Any, Any, Any]]:
    @functools.wraps(method)
    async def call(self: AsyncEngineClient, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        arguments = _bound(kind, args, kwargs)
        if arguments.get("stream"):
            return self._stream(kind, arguments)
        return await self._ask(kind, arguments)

    return call


def _bound(kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name; a TypeError here, and not on a replica, for those that are wrong."""
    bound = inspect.signature(METHODS[kind]).bind(None, *args, **kwargs)
    return {name: value for name, value in bound.arguments.items() if name != "self"}


class EngineClient(_Client):
    """The engine of many machines, for threads; its methods take the arguments of `Engine`'s.

    A request whose replica dies is given to another one; a stream goes on with the tokens that it
    has. With `stream=True` they return an iterator; closing it cancels the request.

    Raises:
        ReplicaDiedError: As many replicas died of a request, or with it, as it may be given to.
        BusyError: Too many requests wait.
    """

    create_completion = _asked("completion", Completing.create_completion)
    create_chat_completion = _asked("chat", ChatCompleting.create_chat_completion)
    create_embedding = _asked("embedding", Engine.create_embedding)
    rerank = _asked("rerank", Engine.rerank)
    __call__ = create_completion

    def _ask(self, kind: Kind, arguments: dict[str, Any]) -> Any:
        attempts = Attempts(self._n_attempts)
        while True:
            try:
                return self._whole.remote(kind, arguments).result()
            except Exception as error:
                attempts.failed(error)

    def _stream(self, kind: Kind, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        attempts, delivery = Attempts(self._n_attempts), Delivery()
        while True:
            parcels = self._streamed.remote(kind, arguments, delivery.begun)
            try:
                for parcel in parcels:
                    piece = delivery.take(parcel)
                    if piece is not None:
                        yield piece
            except Exception as error:
                attempts.failed(error)
                delivery.again()
            except BaseException:  # nobody reads any more
                parcels.cancel()
                raise
            else:
                return


class AsyncEngineClient(_Client):
    """`EngineClient` for asyncio: the same calls, awaited.

    With `stream=True` they return an asynchronous iterator when awaited; closing it cancels the
    request, as does cancelling the task.
    """

    create_completion = _awaited("completion", Completing.create_completion)
    create_chat_completion = _awaited("chat", ChatCompleting.create_chat_completion)
    create_embedding = _awaited("embedding", Engine.create_embedding)
    rerank = _awaited("rerank", Engine.rerank)
    __call__ = create_completion

    async def _ask(self, kind: Kind, arguments: dict[str, Any]) -> Any:
        attempts = Attempts(self._n_attempts)
        while True:
            try:
                return await self._whole.remote(kind, arguments)
            except Exception as error:
                attempts.failed(error)

    async def _stream(self, kind: Kind, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        attempts, delivery = Attempts(self._n_attempts), Delivery()
        while True:
            parcels = self._streamed.remote(kind, arguments, delivery.begun)
            try:
                async for parcel in parcels:
                    piece = delivery.take(parcel)
                    if piece is not None:
                        yield piece
            except Exception as error:
                attempts.failed(error)
                delivery.again()
            except BaseException:  # nobody reads any more
                parcels.cancel()
                raise
            else:
                return
