"""`Llama` for asyncio: the same calls, awaited."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from llamacffi.aio import AsyncFront, Stream, plain, run
from llamacffi.llama import Llama

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncLlama"]

P = ParamSpec("P")


def _loading(
    make: Callable[P, Llama],
) -> Callable[Concatenate[type[AsyncLlama], P], Coroutine[Any, Any, AsyncLlama]]:
    async def load(cls: type[AsyncLlama], /, *args: P.args, **kwargs: P.kwargs) -> AsyncLlama:
        """Load a model in a worker thread; takes what `Llama` takes.

        A cancelled task cancels the load, or the download, and leaves nothing behind. `progress`
        is called in the worker thread.

        Raises: As `Llama`.
        """
        made: list[Llama] = []

        def keep() -> None:
            made.append(make(*args, **kwargs))

        try:
            await run(keep)
        except BaseException:
            for llama in made:  # it was done just when the task was cancelled
                llama.close()
            raise
        return cls(made[0])

    signature = inspect.signature(make.__init__)
    vars(load)["__signature__"] = signature.replace(return_annotation="AsyncLlama")
    load.__qualname__ = "AsyncLlama.load"
    return load


def _completing(
    method: Callable[Concatenate[Llama, P], Any],
) -> Callable[Concatenate[AsyncLlama, P], Coroutine[Any, Any, Any]]:
    @functools.wraps(method)
    async def call(self: AsyncLlama, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        result = await run(method, self.llama, *args, **kwargs)
        return Stream(lambda: result) if isinstance(result, Iterator) else result

    return call


class AsyncLlama(AsyncFront[Llama]):
    """A `Llama` whose calls are awaited: `await AsyncLlama.load(...)`, or around an existing one.

    Its methods take the arguments of Llama's. With `stream=True`, `create_completion` and
    `create_chat_completion` return a `Stream` when awaited, to be read with `async for`.

    One answer is computed at a time; other tasks wait in line. A task's next call ends the stream
    that it left unfinished. A cancelled task stops what is computed for it.

    Args:
        llama: The model that computes; it is closed by `aclose`.
    """

    def __init__(self, llama: Llama) -> None:
        super().__init__(llama)

    load = classmethod(_loading(Llama))

    @property
    def llama(self) -> Llama:
        """The `Llama` that computes."""
        return self._wrapped

    create_completion = _completing(Llama.create_completion)
    create_chat_completion = _completing(Llama.create_chat_completion)
    __call__ = create_completion
    embed = _completing(Llama.embed)
    create_embedding = _completing(Llama.create_embedding)
    rerank = _completing(Llama.rerank)
    tokenize = plain(Llama.tokenize)
    detokenize = plain(Llama.detokenize)

    async def aclose(self) -> None:
        """Free context and model. What is computed in other tasks raises ClosedError there."""
        await run(self.llama.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncLlama({self.llama!r})"
