"""Calls of an `AsyncLlama` that are cancelled: in the prompt, in the text, in the queue."""

from __future__ import annotations

import asyncio
import sys

import pytest

from llamacffi import AsyncLlama
from tests.async_completions import (
    ENDLESS,
    LONG,
    async_llama,
    blocking,
    expected_text,
    stream,
    streamed_text,
    text,
    watched,
)
from tests.completions import PROMPT, text_of
from tests.worker_threads import in_loop, workers

llama = pytest.fixture(scope="module")(blocking)
llm = pytest.fixture(async_llama)
wanted = pytest.fixture(expected_text)
no_threads = pytest.fixture(autouse=True)(watched)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("prompt", "seconds"), [(LONG, 0.15), (PROMPT, 0.3), (PROMPT, 0.0)])
def test_a_cancelled_task(
    llm: AsyncLlama, wanted: str, prompt: str, seconds: float, streaming: bool
) -> None:
    """In the prompt, in the text, or before anything."""

    async def main() -> None:
        read = streamed_text if streaming else text
        task = asyncio.create_task(read(llm, prompt, **(ENDLESS | {"max_tokens": 100_000})))
        await asyncio.sleep(seconds)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert workers() == []
        assert llm.llama.context.memory.position_max() < 1950  # it had not come to the end
        assert await text(llm) == wanted
        assert await streamed_text(llm) == wanted

    in_loop(main)


def test_a_timeout(llm: AsyncLlama, wanted: str) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(streamed_text(llm, **ENDLESS), 0.2)
        if sys.version_info >= (3, 11):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await text(llm, LONG)
        assert workers() == []
        assert await text(llm) == wanted

    in_loop(main)


def test_each_piece_with_a_timeout(llm: AsyncLlama, wanted: str) -> None:
    """Before Python 3.12 every read is a task of its own; others wait all the same."""

    async def main() -> None:
        async def read_patiently() -> str:
            found, chunks = "", await asyncio.wait_for(stream(llm), 10)
            for _ in range(100):
                try:
                    chunk = await asyncio.wait_for(chunks.__anext__(), 10)
                except StopAsyncIteration:
                    break
                found += text_of(chunk)
            return found

        results = await asyncio.gather(read_patiently(), *(text(llm) for _ in range(3)))
        assert results == [wanted] * 4

    in_loop(main)


def test_one_who_waits_is_cancelled_and_hurts_nobody(llm: AsyncLlama, wanted: str) -> None:
    async def main() -> None:
        first = asyncio.create_task(streamed_text(llm, max_tokens=60))
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(text(llm)) for _ in range(5)]
        await asyncio.sleep(0.1)
        for task in waiting[1:4]:
            task.cancel()
        results = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert str(results[0]).startswith(wanted)
        assert results[1] == results[5] == wanted
        assert all(isinstance(error, asyncio.CancelledError) for error in results[2:5])

    in_loop(main)
