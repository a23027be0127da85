"""Completions of an `AsyncLlama` in tests, and the fixtures of the files that ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamacffi import AsyncLlama, Llama
from llamacffi.aio import Stream
from tests.completions import GREEDY, PROMPT, complete, text_of
from tests.conftest import N_THREADS
from tests.worker_threads import no_worker_left

LONG = "Once upon a time there was a red fox. " * 190  # some 1900 tokens
ENDLESS: dict[str, Any] = {"temperature": 0, "max_tokens": 1500, "ignore_eos": True}


async def stream(llm: AsyncLlama, prompt: str = PROMPT, **parameters: Any) -> Stream[Any]:
    found = await llm.create_completion(prompt, **{**GREEDY, **parameters}, stream=True)
    assert isinstance(found, Stream)
    return found


async def text(llm: AsyncLlama, prompt: str = PROMPT, **parameters: Any) -> str:
    return text_of(await llm.create_completion(prompt, **{**GREEDY, **parameters}))


async def streamed_text(llm: AsyncLlama, prompt: str = PROMPT, **parameters: Any) -> str:
    return "".join([text_of(chunk) async for chunk in await stream(llm, prompt, **parameters)])


# -- to be made fixtures: llama, llm, wanted, no_threads ------------------------------------------


def blocking(model_path: Path) -> Iterator[Llama]:
    """Has room for LONG."""
    with Llama(model_path, backend="cpu", n_ctx=2048, n_threads=N_THREADS) as loaded:
        yield loaded


def async_llama(llama: Llama) -> AsyncLlama:
    llama.reset()
    return AsyncLlama(llama)


def expected_text(llama: Llama) -> str:
    """What the blocking call says."""
    return text_of(complete(llama))


def watched() -> Iterator[None]:
    """A test leaves no worker thread behind."""
    yield
    no_worker_left()
