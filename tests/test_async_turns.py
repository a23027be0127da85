"""Streams and calls of an `AsyncLlama` take turns: tasks, loops, threads, and readers who leave."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from llamacffi import AsyncLlama, Llama
from llamacffi.aio import READ_AHEAD, Stream
from llamacffi.errors import (
    CancelledError,
)
from tests.async_completions import (
    ENDLESS,
    async_llama,
    blocking,
    expected_text,
    stream,
    streamed_text,
    text,
    watched,
)
from tests.completions import PROMPT, complete, text_of
from tests.worker_threads import HANG_SECONDS, in_loop, workers

llama = pytest.fixture(scope="module")(blocking)
llm = pytest.fixture(async_llama)
wanted = pytest.fixture(expected_text)
no_threads = pytest.fixture(autouse=True)(watched)


def test_leaving_a_stream(llm: AsyncLlama, wanted: str) -> None:
    async def main() -> None:
        for how in ("forgotten", "closed", "block", "kept"):
            chunks = await stream(llm, "Once upon", **ENDLESS)
            async for _ in chunks:
                break
            if how == "forgotten":
                del chunks
            elif how == "closed":
                await chunks.aclose()
                assert workers() == []
            elif how == "block":
                async with chunks:
                    await chunks.__anext__()
                assert workers() == []
            assert await text(llm) == wanted
        with pytest.raises(CancelledError, match="superseded"):
            async for _ in chunks:
                pass

    in_loop(main)


def test_a_task_that_ended_leaves_a_stream(llm: AsyncLlama, wanted: str) -> None:
    async def main() -> None:
        kept = []

        async def read_one() -> None:
            kept.append(await stream(llm, "Once upon", **ENDLESS))
            await kept[0].__anext__()

        await asyncio.create_task(read_one())
        assert await asyncio.create_task(text(llm)) == wanted

    in_loop(main)


def test_a_stream_made_in_one_task_and_read_in_others(llm: AsyncLlama, wanted: str) -> None:
    async def main() -> None:
        async def read(chunks: Stream[Any]) -> str:
            return "".join([text_of(chunk) async for chunk in chunks])

        tasks = [asyncio.create_task(read(await stream(llm))) for _ in range(4)]
        assert await asyncio.gather(*tasks) == [wanted] * 4

    in_loop(main)


def test_many_tasks(llm: AsyncLlama, llama: Llama) -> None:
    prompts = ["One, two,", PROMPT, "Once upon a", "Water is"] * 5
    expected = {prompt: text_of(complete(llama, prompt)) for prompt in set(prompts)}

    async def main() -> None:
        reads = [(text, streamed_text)[n % 2](llm, prompt) for n, prompt in enumerate(prompts)]
        found = await asyncio.gather(*reads)
        assert found == [expected[prompt] for prompt in prompts]

    in_loop(main)


def test_two_tasks_wait_for_each_other(llm: AsyncLlama, wanted: str) -> None:
    """A stream that is read slowly is not superseded by another task's call."""

    async def main() -> None:
        pieces: list[str] = []
        begun = asyncio.Event()

        async def slow() -> None:
            async for chunk in await stream(llm, max_tokens=20, ignore_eos=True):
                pieces.append(text_of(chunk))
                begun.set()
                await asyncio.sleep(0.01)

        async def other() -> int:
            await begun.wait()
            assert await text(llm) == wanted
            return len(pieces)

        _, n_read = await asyncio.gather(slow(), other())
        assert "".join(pieces).startswith(wanted)
        assert len(pieces) > 15
        assert n_read >= len(pieces) - READ_AHEAD - 1  # what was left had been computed already

    in_loop(main)


def test_other_loops_and_threads_take_turns(llm: AsyncLlama, llama: Llama, wanted: str) -> None:
    found: list[str] = []

    async def main() -> None:
        found.extend(await asyncio.gather(text(llm), streamed_text(AsyncLlama(llama))))

    def block() -> None:
        found.extend(text_of(complete(llama)) for _ in range(2))

    threads = [threading.Thread(target=in_loop, args=(main,)) for _ in range(2)]
    threads += [threading.Thread(target=block)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_SECONDS)
    assert found == [wanted] * 6


def test_a_blocking_call_in_the_event_loop(llm: AsyncLlama, llama: Llama, wanted: str) -> None:
    """Not a good idea, but no deadlock: nobody could read the stream meanwhile."""

    async def main() -> None:
        chunks = await stream(llm, "Once upon", **ENDLESS)
        await chunks.__anext__()
        while workers():
            await asyncio.sleep(0.01)
        assert text_of(complete(llama)) == wanted
        with pytest.raises(CancelledError, match="superseded"):
            async for _ in chunks:
                pass

    in_loop(main)


def test_a_thread_that_ended_leaves_a_stream(llama: Llama, wanted: str) -> None:
    kept = []

    def leave() -> None:
        kept.append(llama.create_completion("Once upon", stream=True, **ENDLESS))
        next(kept[0])

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    assert text_of(complete(llama)) == wanted
