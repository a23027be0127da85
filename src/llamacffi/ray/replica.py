"""What runs in a replica: one engine, asked by clients on other machines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal

from llamacffi.chat_completing import ChatCompleting
from llamacffi.completing import Completing
from llamacffi.engine import AsyncEngine, Engine, EngineStats
from llamacffi.engine.async_engine import PieceStream
from llamacffi.errors import ClosedError
from llamacffi.job import Job
from llamacffi.ray.options import EngineOptions

__all__ = ["EngineReplica", "Kind", "Parcel"]

Kind = Literal["completion", "chat", "embedding", "rerank"]
# A piece of a stream, and the tokens that its choice got meanwhile.
Parcel = tuple[dict[str, Any], list[int]]

METHODS: dict[Kind, Callable[..., Any]] = {
    "completion": Completing.create_completion,
    "chat": ChatCompleting.create_chat_completion,
    "embedding": Engine.create_embedding,
    "rerank": Engine.rerank,
}


class EngineReplica:
    """An engine in a process of its own; Ray Serve makes it and calls it.

    Args:
        options: What is loaded.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._engine = AsyncEngine(options.open())

    async def ask(self, kind: Kind, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer.

        Args:
            kind: Which of the engine's methods.
            arguments: Its arguments.
        """
        engine = self._engine
        methods: dict[Kind, Callable[..., Any]] = {
            "completion": engine.create_completion,
            "chat": engine.create_chat_completion,
            "embedding": engine.create_embedding,
            "rerank": engine.rerank,
        }
        result: dict[str, Any] = await methods[kind](**arguments)
        return result

    async def stream(
        self, kind: Kind, arguments: Mapping[str, Any], begun: Mapping[int, Sequence[int]]
    ) -> AsyncIterator[Parcel]:
        """The answer in pieces, each with the tokens that it was made of.

        Args:
            kind: Which of the engine's methods.
            arguments: Its arguments.
            begun: By choice, the tokens that another replica had picked before it died. The
                stream begins at its beginning all the same, but with these tokens.
        """
        pieces = await self._begin(kind, arguments, begun)
        told = [
            len(generation.prompt) + len(begun.get(index, ()))
            for index, generation in enumerate(pieces.generations)
        ]
        try:
            async for piece in pieces:
                tokens: list[int] = []
                for choice in piece["choices"]:
                    index = choice["index"]
                    # The engine may be ahead of what is read: rather more tokens than fewer.
                    tokens = pieces.generations[index].tokens[told[index] :]
                    told[index] += len(tokens)
                yield piece, tokens
        finally:
            await pieces.aclose()

    async def _begin(
        self, kind: Kind, arguments: Mapping[str, Any], begun: Mapping[int, Sequence[int]]
    ) -> PieceStream:
        self._engine.engine.check_room()
        job: Job
        # Runs nothing: an AsyncEngine's `_do` hands the job over. It may take a while, though.
        job, _ = await asyncio.to_thread(METHODS[kind], self._engine, **arguments)
        for index, tokens in begun.items():
            job.choices[index].generation.follow(tokens)
        return PieceStream(self._engine.engine, job)

    async def pid(self) -> int:
        """The number of the replica's process, on its machine."""
        return os.getpid()

    async def stats(self) -> EngineStats:
        """What its engine is doing, and has done."""
        return self._engine.stats()

    async def check_health(self) -> None:
        """Ray Serve's question; whoever raises is replaced.

        Raises:
            ClosedError: The engine has failed, and takes no more requests.
        """
        if self._engine.engine.closed:
            raise ClosedError(f"{self._engine} has failed, and takes no more requests.")
