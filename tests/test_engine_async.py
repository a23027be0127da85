"""`AsyncEngine`: the engine's calls awaited, streamed, cancelled; loops that end, and several."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llamacffi import AsyncEngine, Engine, Llama
from llamacffi.errors import (
    BusyError,
    ClosedError,
    DeadlineError,
    ParameterError,
    UnsupportedError,
)
from tests.completions import joined
from tests.engines import (
    GREEDY,
    Gate,
    alone,
    engine_on,
    settled,
    text_of,
    together,
)
from tests.worker_threads import in_loop

ENDLESS: dict[str, Any] = {"temperature": 0, "max_tokens": 1000, "ignore_eos": True}


@pytest.fixture
def engine(exact_llama: Llama) -> Iterator[Engine]:
    with engine_on(exact_llama.model, n_ctx=1024) as made:
        yield made


@pytest.fixture
def llm(engine: Engine) -> AsyncEngine:
    return AsyncEngine(engine)


def test_many_at_once(exact_llama: Llama, llm: AsyncEngine) -> None:
    prompts = [f"{word} {word}" for word in ("a", "bc", "def", "x", "yz", "hello")]
    wanted = [text_of(alone(exact_llama, prompt)) for prompt in prompts]

    async def main() -> list[Any]:
        return await asyncio.gather(
            *(llm.create_completion(prompt, **GREEDY) for prompt in prompts)
        )

    assert [text_of(result) for result in in_loop(main)] == wanted


def test_streams(exact_llama: Llama, llm: AsyncEngine) -> None:
    wanted = alone(exact_llama, "abc", n=2, temperature=1, seed=5)["choices"]

    async def main() -> list[Any]:
        stream = await llm.create_completion(
            "abc", **{**GREEDY, "temperature": 1}, n=2, seed=5, stream=True
        )
        return [chunk async for chunk in stream]

    chunks = in_loop(main)
    assert [joined(iter(chunks), index)["text"] for index in range(2)] == [
        choice["text"] for choice in wanted
    ]


def test_a_chat(llm: AsyncEngine) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6,
                             "temperature": 0}  # fmt: skip

    async def main() -> tuple[Any, list[Any]]:
        whole = await llm.create_chat_completion(**asked)
        stream = await llm.create_chat_completion(**asked, stream=True)
        return whole, [chunk async for chunk in stream]

    whole, chunks = in_loop(main)
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]


def test_a_cancelled_task_ends_its_requests(engine: Engine, llm: AsyncEngine) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(llm.create_completion([n], **ENDLESS)) for n in range(5, 11)]
        while engine.stats().totals.completion_tokens < 20:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)

    in_loop(main)
    totals = settled(engine).totals
    assert totals.cancelled + totals.finished == totals.requests
    assert totals.finished == 0


def test_a_task_that_is_cancelled_while_it_plans(engine: Engine, llm: AsyncEngine) -> None:
    async def main() -> None:
        task = asyncio.create_task(llm.create_completion("abc", **ENDLESS))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    in_loop(main)
    assert settled(engine).totals.requests == 0


def test_waiting_for_a_while(engine: Engine, llm: AsyncEngine) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(llm.create_completion([5], **ENDLESS), 0.02)
        gate = Gate()
        stream = await llm.create_completion([5], **ENDLESS, stream=True, logits_processor=gate)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(stream.__anext__(), 0.01)
        gate.open()
        assert [piece async for piece in stream] == []

    in_loop(main)
    assert settled(engine).totals.cancelled >= 1


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_a_stream_that_is_left(engine: Engine, llm: AsyncEngine, how: str) -> None:
    async def main() -> None:
        stream = await llm.create_completion([5], **ENDLESS, stream=True)
        await stream.__anext__()
        if how == "closed":
            await stream.aclose()
            await stream.aclose()
            assert [piece async for piece in stream] == []
        del stream

    in_loop(main)
    gc.collect()
    assert settled(engine).totals.cancelled == 1


def test_two_tasks_cannot_read_one_stream(engine: Engine, llm: AsyncEngine) -> None:
    gate = Gate()

    async def main() -> None:
        stream = await llm.create_completion(
            [5], max_tokens=3, temperature=0, logits_processor=gate, stream=True
        )
        first = asyncio.create_task(stream.__anext__())
        await asyncio.sleep(0)
        with pytest.raises(UnsupportedError, match="Two tasks"):
            await stream.__anext__()
        gate.open()
        await first
        assert [piece async for piece in stream]

    in_loop(main)
    assert settled(engine).totals.finished == 1


def test_failures_are_raised_where_one_waits(engine: Engine, llm: AsyncEngine) -> None:
    def broken(tokens: Any, logits: Any) -> Any:
        raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(ParameterError):
            await llm.create_completion([5], n=0)
        with pytest.raises(ZeroDivisionError):
            await llm.create_completion([5], logits_processor=broken)
        with pytest.raises(DeadlineError):
            await llm.with_options(timeout=1e-6).create_completion([5], **ENDLESS)
        stream = await llm.create_completion([5], n=3, logits_processor=broken, stream=True)
        with pytest.raises(ZeroDivisionError):
            await stream.__anext__()
        assert [piece async for piece in stream] == []

    in_loop(main)
    assert settled(engine).totals.requests == 5


def test_too_many(exact_llama: Llama) -> None:
    with engine_on(exact_llama.model, n_parallel=2, n_queue_max=1) as engine:

        async def main() -> None:
            with pytest.raises(BusyError):
                await AsyncEngine(engine).create_completion([5], n=4)

        in_loop(main)


def test_a_callback_cannot_run_a_loop_on_its_own_engine(engine: Engine, llm: AsyncEngine) -> None:
    def processor(tokens: Any, logits: Any) -> Any:
        asyncio.run(llm.create_completion([6], max_tokens=1))
        return logits

    async def main() -> None:
        with pytest.raises(UnsupportedError, match="thread of your own"):
            await llm.create_completion([5], logits_processor=processor)

    in_loop(main)
    assert settled(engine).totals.failed == 1


def test_a_loop_that_is_closed_while_something_runs(engine: Engine, llm: AsyncEngine) -> None:
    async def begun() -> Any:
        return await llm.create_completion([5], **ENDLESS, stream=True)

    loop = asyncio.new_event_loop()
    stream = loop.run_until_complete(begun())
    loop.close()
    assert settled(engine).totals.cancelled == 1  # though somebody holds the stream
    del stream


def test_several_loops_in_several_threads(exact_llama: Llama, llm: AsyncEngine) -> None:
    wanted = [text_of(alone(exact_llama, [n, n])) for n in range(5, 13)]

    def loop_of(first: int) -> list[str]:
        async def main() -> list[Any]:
            return await asyncio.gather(
                *(llm.create_completion([n, n], **GREEDY) for n in (first, first + 1))
            )

        return [text_of(result) for result in in_loop(main)]

    found = together([lambda first=first: loop_of(first) for first in range(5, 13, 2)])
    assert [text for texts in found for text in texts] == wanted


def test_the_event_loop_goes_on_meanwhile(engine: Engine, llm: AsyncEngine) -> None:
    gate = Gate()

    async def main() -> None:
        task = asyncio.create_task(llm.create_completion([5], **GREEDY, logits_processor=gate))
        while not gate.entered.is_set():
            await asyncio.sleep(0.001)
        assert llm.stats().n_running == 1
        gate.open()
        await task

    in_loop(main)


def test_closing(exact_llama: Llama) -> None:
    async def main() -> None:
        async with AsyncEngine(Engine(exact_llama.model, n_parallel=2, n_ctx=1024)) as llm:
            tasks = [asyncio.create_task(llm.create_completion([n], **ENDLESS)) for n in (5, 6, 7)]
            while llm.stats().totals.completion_tokens < 5:
                await asyncio.sleep(0.001)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, ClosedError) for result in results)
        with pytest.raises(ClosedError):
            await llm.create_completion([5])
        patient = AsyncEngine(Engine(exact_llama.model, n_parallel=2, n_ctx=1024))
        task = asyncio.create_task(patient.create_completion([5], **GREEDY))
        while not patient.stats().totals.requests:
            await asyncio.sleep(0.001)
        await patient.aclose(timeout=None)
        assert text_of(await task)

    in_loop(main)
    assert "llamacffi-engine" not in [thread.name for thread in threading.enumerate()]
