"""The engine for asyncio: the same calls, awaited; no thread waits for an answer."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from llamacffi.aio import run
from llamacffi.chat_completing import ChatCompleting
from llamacffi.context import Context
from llamacffi.engine.async_delivery import AsyncMailbox
from llamacffi.engine.engine import Engine
from llamacffi.engine.stats import EngineStats
from llamacffi.generation import Generation, Step
from llamacffi.job import Job
from llamacffi.templates import Template

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncEngine", "PieceStream"]

P = ParamSpec("P")
R = TypeVar("R")


def _awaited(
    method: Callable[Concatenate[ChatCompleting, P], Any],
) -> Callable[Concatenate[AsyncEngine, P], Coroutine[Any, Any, Any]]:
    @functools.wraps(method)
    async def call(self: AsyncEngine, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        self.engine.check_room()
        # A template, a tokenizer and a grammar may take a while.
        job, stream = await asyncio.to_thread(method, self, *args, **kwargs)
        pieces = PieceStream(self.engine, job)
        return pieces if stream else await pieces.result()

    return call


def _embedding(
    method: Callable[Concatenate[Engine, P], R],
) -> Callable[Concatenate[AsyncEngine, P], Coroutine[Any, Any, R]]:
    @functools.wraps(method)
    async def call(self: AsyncEngine, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await run(method, self.engine, *args, **kwargs)

    return call


class AsyncEngine(ChatCompleting):
    """An `Engine` whose calls are awaited.

    With `stream=True`, `create_completion` and `create_chat_completion` return a `PieceStream`
    when awaited, to be read with `async for`. A cancelled task ends its requests.

    Args:
        engine: What computes; it can be used from threads at the same time.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.model = engine.model
        self.model_path = engine.model_path
        self._seed = engine._seed

    create_completion = _awaited(ChatCompleting.create_completion)
    create_chat_completion = _awaited(ChatCompleting.create_chat_completion)
    __call__ = create_completion
    embed = _embedding(Engine.embed)
    create_embedding = _embedding(Engine.create_embedding)
    rerank = _embedding(Engine.rerank)

    def _do(self, job: Job, stream: bool) -> Any:
        return job, stream

    @property
    def context(self) -> Context:
        """See `Engine`."""
        return self.engine.context

    @property
    def template(self) -> Template:
        """See `Engine`."""
        return self.engine.template

    def with_options(
        self,
        *,
        priority: int | None = None,
        timeout: float | None = None,
        n_prompt_max: int | None = None,
    ) -> AsyncEngine:
        """The same engine with options for the requests made through it; see `Engine`."""
        return AsyncEngine(
            self.engine.with_options(priority=priority, timeout=timeout, n_prompt_max=n_prompt_max)
        )

    def stats(self) -> EngineStats:
        """What it is doing, and has done."""
        return self.engine.stats()

    async def aclose(self, timeout: float | None = 0.0) -> None:
        """Close the engine; see `Engine.close`."""
        await asyncio.to_thread(self.engine.close, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncEngine({self.engine!r})"


class PieceStream(AsyncIterator[dict[str, Any]]):
    """The pieces of a job's stream, as they are computed.

    It may be left at any time: `await stream.aclose()`, or forgetting it, ends its requests.

    Args:
        engine: What computes.
        job: What is asked for.

    Raises:
        BusyError: Too many wait already.
    """

    def __init__(self, engine: Engine, job: Job) -> None:
        self._engine = engine
        self._job = job
        self._open = 0  # should submitting fail
        engine.check_waiting()
        self._mailbox = AsyncMailbox(engine.post)
        self._requests = self._mailbox.requests = engine.submit(self.generations, self._mailbox)
        self._open = len(self._requests)
        self._pieces: deque[dict[str, Any]] = deque()
        self._ended = False

    @property
    def generations(self) -> list[Generation]:
        """What makes each choice's text; the engine works on them meanwhile."""
        return [choice.generation for choice in self._job.choices]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        """The next piece.

        Raises:
            Exception: What ended one of the requests.
        """
        while not self._pieces:
            if not self._open:
                if self._ended:
                    raise StopAsyncIteration
                self._ended = True
                self._pieces.extend(self._job.end())
                continue
            index, step = await self._step()
            choice = self._job.choices[index]
            if step is None:
                self._pieces.extend(self._job.close(choice))
            else:
                self._pieces.extend(self._job.push(choice, step))
        return self._pieces.popleft()

    async def result(self) -> dict[str, Any]:
        """All of it, in place of the pieces.

        Raises:
            Exception: What ended one of the requests.
        """
        steps: list[list[Step]] = [[] for _ in self._requests]
        while self._open:
            index, step = await self._step()
            if step is None:
                self._job.choices[index].steps = steps[index]
            else:
                steps[index].append(step)
        return self._job.result()

    async def _step(self) -> tuple[int, Step | None]:
        self._engine.check_waiting()
        self._mailbox.check_reader()
        try:
            index, step = await self._mailbox.get()
        except BaseException:
            self._cancel()
            raise
        if step is None:
            self._open -= 1
        return index, step

    async def aclose(self) -> None:
        """End the requests. Safe to call twice."""
        self._cancel()
        self._ended = True
        self._pieces.clear()

    def _cancel(self) -> None:
        if self._open:
            self._open = 0
            self._ended = True
            self._engine.cancel(self._requests)

    def __del__(self) -> None:
        self._cancel()
