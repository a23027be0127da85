"""POST /v1/completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from llamacffi.errors import ParameterError
from llamacffi.server.answering import answered, streamed
from llamacffi.server.describing import answers
from llamacffi.server.models import ServedModel
from llamacffi.server.schemas.answers import Completion
from llamacffi.server.schemas.completion import CompletionRequest, Prompt
from llamacffi.server.settings import Settings
from llamacffi.server.state import State
from llamacffi.server.streaming import Chunks

if TYPE_CHECKING:
    from llamacffi.engine import AsyncEngine

__all__ = ["add_completions"]

DEFAULT_TOKENS = 16  # OpenAI's


def add_completions(router: APIRouter, state: State) -> None:
    """Add the route."""

    @router.post(
        "/v1/completions", response_model=None, responses=answers(Completion, streams=True)
    )
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        """Complete a text, in OpenAI's shapes."""
        prompts = asked.prompts()
        arguments = arguments_of(asked, len(prompts), state.settings)

        async def ask(engine: AsyncEngine, served: ServedModel) -> Any:
            asking = Several(engine, prompts, {**arguments, "model": served.id})
            return await (asking.chunks() if asked.stream else asking.whole())

        answer = streamed if asked.stream else answered
        return await answer(state, request, asked.model, ask)


def arguments_of(asked: CompletionRequest, n_prompts: int, settings: Settings) -> dict[str, Any]:
    """The arguments of `create_completion` that a request stands for."""
    n_choices = n_prompts * max(asked.n or 1, asked.best_of or 1)
    if not n_prompts:
        raise ParameterError("prompt: the list is empty. Give at least one prompt.")
    if n_choices > settings.choices_max:
        raise ParameterError(
            f"prompt: {n_choices} answers are asked for, prompts times n or best_of; this server "
            f"gives at most {settings.choices_max}."
        )
    if asked.echo and asked.max_tokens == 0 and asked.logprobs is not None:
        limit: int | None = 0  # scores the prompt
    else:
        limit = asked.limit(
            "max_tokens", "n_predict", default=DEFAULT_TOKENS, tokens_max=settings.tokens_max
        )
    arguments = {
        "sampling": asked.sampling(settings.sampling),
        "stream": bool(asked.stream),
        "max_tokens": limit,
        "logprobs": asked.n_probs or None if asked.logprobs is None else asked.logprobs,
        "response_format": asked.format(),
    }
    same = (
        "min_tokens", "stop", "ignore_eos", "n", "best_of", "echo", "suffix", "stream_options",
    )  # fmt: skip
    given = {name: value for name in same if (value := getattr(asked, name)) is not None}
    return arguments | given


class Several:
    """One or several prompts of one request; their choices are numbered through.

    Args:
        engine: What completes them.
        prompts: The prompts.
        arguments: The other arguments of `create_completion`.
    """

    def __init__(
        self, engine: AsyncEngine, prompts: Sequence[Prompt], arguments: dict[str, Any]
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._arguments = arguments
        self._n: int = arguments.get("n", 1)

    async def whole(self) -> Any:
        """All results as one."""
        calls = [asyncio.ensure_future(self._asked(prompt)) for prompt in self._prompts]
        try:
            results = await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        whole: dict[str, Any] = results[0]
        for place, result in enumerate(results[1:], 1):
            whole["choices"] += [self._numbered(choice, place) for choice in result["choices"]]
            whole["usage"] = _sum(whole["usage"], result["usage"])
        return whole

    async def chunks(self) -> Chunks:
        """The streams, one after the other, as one."""
        if len(self._prompts) == 1:
            alone: Chunks = await self._asked(self._prompts[0])
            return alone
        return _Chained([await self._asked(prompt) for prompt in self._prompts], self._numbered)

    async def _asked(self, prompt: Prompt) -> Any:
        return await self._engine.create_completion(prompt, **self._arguments)

    def _numbered(self, choice: dict[str, Any], place: int) -> dict[str, Any]:
        return {**choice, "index": choice["index"] + place * self._n}


class _Chained:
    """Streams one after the other."""

    def __init__(self, streams: Sequence[Chunks], numbered: Any) -> None:
        self._streams = streams
        self._numbered = numbered
        self._chunks = self._run()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._chunks

    async def __anext__(self) -> Any:
        return await self._chunks.__anext__()

    async def _run(self) -> AsyncIterator[Any]:
        head: dict[str, Any] = {}
        last: dict[str, Any] | None = None  # the one with the usage, where it is asked for
        for place, stream in enumerate(self._streams):
            async for chunk in stream:
                head = head or {"id": chunk["id"], "created": chunk["created"]}
                chunk = {**chunk, **head}
                if chunk.get("usage"):
                    so_far = chunk["usage"] if last is None else _sum(last["usage"], chunk["usage"])
                    last = {**chunk, "usage": so_far}
                    continue
                choices = [self._numbered(choice, place) for choice in chunk["choices"]]
                yield {**chunk, "choices": choices}
        if last is not None:
            yield last

    async def aclose(self) -> None:
        for stream in self._streams:
            await stream.aclose()


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two usages as one."""
    return {
        key: _sum(value, other[key]) if isinstance(value, dict) else value + other[key]
        for key, value in one.items()
    }
