"""`AsyncLlama` on the real model: results, streams, cancelling, taking turns, and all ends."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamacffi import AsyncLlama, Llama
from llamacffi.aio import READ_AHEAD, Stream
from llamacffi.errors import (
    CancelledError,
    ClosedError,
    ContextFullError,
    ModelNotFoundError,
    ParameterError,
)
from tests.completions import GREEDY, PROMPT, complete, text_of
from tests.conftest import N_THREADS
from tests.worker_threads import HANG_SECONDS, in_loop, no_worker_left, workers

LONG = "Once upon a time there was a red fox. " * 190  # some 1900 tokens
ENDLESS: dict[str, Any] = {"temperature": 0, "max_tokens": 1500, "ignore_eos": True}
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def llama(model_path: Path) -> Iterator[Llama]:
    with Llama(model_path, backend="cpu", n_ctx=2048, n_threads=N_THREADS) as loaded:
        yield loaded


@pytest.fixture
def llm(llama: Llama) -> AsyncLlama:
    llama.reset()
    return AsyncLlama(llama)


@pytest.fixture
def wanted(llama: Llama) -> str:
    return text_of(complete(llama))


@pytest.fixture(autouse=True)
def no_threads() -> Iterator[None]:
    yield
    no_worker_left()


async def stream(llm: AsyncLlama, prompt: str = PROMPT, **parameters: Any) -> Stream[Any]:
    found = await llm.create_completion(prompt, **{**GREEDY, **parameters}, stream=True)
    assert isinstance(found, Stream)
    return found


async def text(llm: AsyncLlama, prompt: str = PROMPT, **parameters: Any) -> str:
    return text_of(await llm.create_completion(prompt, **{**GREEDY, **parameters}))


async def streamed_text(llm: AsyncLlama, prompt: str = PROMPT, **parameters: Any) -> str:
    return "".join([text_of(chunk) async for chunk in await stream(llm, prompt, **parameters)])


# -- results --------------------------------------------------------------------------------------


def test_the_results_are_those_of_the_blocking_calls(llama: Llama, llm: AsyncLlama) -> None:
    async def main() -> None:
        found = await llm.create_completion(PROMPT, logprobs=2, **GREEDY)
        expected = complete(llama, logprobs=2)
        assert found["usage"]["completion_tokens"] == expected["usage"]["completion_tokens"]
        assert found["choices"][0]["text"] == text_of(expected)
        assert await streamed_text(llm) == text_of(expected)
        assert text_of(await llm(PROMPT, **GREEDY)) == text_of(expected)

        answer = await llm.create_chat_completion(MESSAGES, temperature=0, max_tokens=8)
        message = llama.create_chat_completion(MESSAGES, temperature=0, max_tokens=8)
        assert answer["choices"] == message["choices"]
        content = ""
        async for chunk in await llm.create_chat_completion(
            MESSAGES, temperature=0, max_tokens=8, stream=True
        ):
            content += chunk["choices"][0]["delta"].get("content") or ""
        assert content == answer["choices"][0]["message"]["content"]

        tokens = llm.tokenize(PROMPT)
        assert tokens == llama.tokenize(PROMPT)
        assert llm.detokenize(tokens) == PROMPT.encode()
        assert "AsyncLlama(Llama(" in repr(llm)
        assert workers() == []

    in_loop(main)


@pytest.mark.parametrize(
    "name", ["create_completion", "create_chat_completion", "tokenize", "detokenize", "__call__"]
)
def test_the_parameters_are_those_of_llama(name: str) -> None:
    found, expected = getattr(AsyncLlama, name), getattr(Llama, name)
    assert inspect.signature(found) == inspect.signature(expected)
    assert found.__doc__ == expected.__doc__


def test_the_parameters_of_load() -> None:
    found, expected = inspect.signature(AsyncLlama.load), inspect.signature(Llama)
    assert found.parameters == expected.parameters
    assert found.return_annotation == "AsyncLlama"


TYPED = """
from llamacffi import AsyncLlama

async def right(llm: AsyncLlama) -> list[int]:
    await llm.create_completion("x", max_tokens=3)
    async for _ in await llm.create_chat_completion([], stream=True):
        pass
    async with await AsyncLlama.load("x", n_ctx=3) as other:
        return other.tokenize("x", special=True)

async def wrong(llm: AsyncLlama) -> None:
    await llm.create_completion("x", max_tokns=3)
    await llm.create_completion("x", max_tokens="3")
    await llm.create_chat_completion()
    await AsyncLlama.load("x", n_ctxx=3)
    llm.tokenize(5)
"""


def test_type_checkers_know_the_parameters(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    source = tmp_path / "typed.py"
    source.write_text(TYPED)
    cache = f"--cache-dir={tmp_path}"
    out, err, _ = api.run(
        ["--strict", "--config-file=", cache, "--follow-imports=silent", str(source)]
    )
    lines = [int(line.split(":")[1]) for line in out.splitlines() if ": error:" in line]
    first = TYPED[: TYPED.index("max_tokns")].count("\n") + 1
    assert lines == list(range(first, first + 5)), out + err


def test_exceptions(llm: AsyncLlama, wanted: str) -> None:
    async def main() -> None:
        for streaming in (False, True):
            with pytest.raises(ContextFullError):
                await llm.create_completion("word " * 3000, stream=streaming)
            with pytest.raises(ParameterError):
                await llm.create_completion(PROMPT, n=0, stream=streaming)
            with pytest.raises(TypeError, match="max_tokns"):
                # An argument that does not exist is what is tested.
                await llm.create_completion(PROMPT, max_tokns=1)  # type: ignore[call-arg]

        def fail(tokens: Any, scores: Any) -> None:
            if len(tokens) > 8:
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await text(llm, logits_processor=fail)
        with pytest.raises(KeyError, match="mine"):
            await streamed_text(llm, logits_processor=fail)
        assert await text(llm) == wanted

    in_loop(main)


def test_the_loop_goes_on_meanwhile(llm: AsyncLlama) -> None:
    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        computing = asyncio.create_task(text(llm, LONG, max_tokens=1))
        while ticks < 100 and not computing.done():
            await asyncio.sleep(0.01)
        assert not computing.done()
        computing.cancel()
        ticking.cancel()
        await asyncio.wait([computing, ticking])

    in_loop(main)


# -- cancelling -----------------------------------------------------------------------------------


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


# -- streams and turns ----------------------------------------------------------------------------


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


# -- loading and closing --------------------------------------------------------------------------


def test_loading_and_closing(model_path: Path, wanted: str) -> None:
    seen: list[float] = []

    async def main() -> None:
        async with await AsyncLlama.load(
            model_path, backend="cpu", n_ctx=128, n_threads=1, progress=seen.append
        ) as llm:
            assert seen[-1] == 1.0
            assert await text(llm) == wanted
        with pytest.raises(ClosedError):
            await text(llm)
        await llm.aclose()
        with pytest.raises(ModelNotFoundError):
            await AsyncLlama.load(model_path.with_suffix(".none"))

    in_loop(main)


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.1, 0.2, 0.3, 0.5])
def test_a_load_that_is_cancelled(model_path: Path, seconds: float) -> None:
    """The leak check after this test looks for what was loaded."""

    async def main() -> None:
        load = AsyncLlama.load(model_path, backend="cpu", n_ctx=128, n_threads=1, use_mmap=False)
        task = asyncio.create_task(load)
        await asyncio.sleep(seconds)
        task.cancel()
        try:
            await (await task).aclose()
        except asyncio.CancelledError:
            assert workers() == []

    in_loop(main)


@pytest.mark.parametrize("prompt", [LONG, PROMPT])
def test_closing_while_a_task_streams(model_path: Path, prompt: str) -> None:
    async def main() -> None:
        llm = await AsyncLlama.load(model_path, backend="cpu", n_ctx=2048, n_threads=1)
        task = asyncio.create_task(streamed_text(llm, prompt, **ENDLESS))
        await asyncio.sleep(0.2)
        waiting = asyncio.create_task(text(llm))
        await asyncio.sleep(0.2)
        await llm.aclose()
        results = await asyncio.gather(task, waiting, return_exceptions=True)
        assert [type(result) for result in results] == [ClosedError] * 2

    in_loop(main)


def test_the_loop_ends_with_a_stream_open(llm: AsyncLlama, llama: Llama, wanted: str) -> None:
    kept = []

    async def main() -> None:
        kept.append(await stream(llm, "Once upon", **ENDLESS))
        await kept[0].__anext__()
        task = asyncio.create_task(streamed_text(llm, LONG))  # asyncio.run cancels it
        await asyncio.sleep(0.05)
        assert not task.done()

    in_loop(main)
    assert workers() == [] or kept
    assert text_of(complete(llama)) == wanted
    assert in_loop(lambda: text(llm)) == wanted
    kept.clear()
    gc.collect()


CTRL_C = """
import asyncio, sys, threading, time
from llamacffi import AsyncLlama, Llama
llama = Llama(sys.argv[1], backend="cpu", n_ctx=4096, n_threads=1)
async def main():
    prompt = "Once upon a time " * 900 if sys.argv[2] == "prompt" else "Once upon"
    options = dict(max_tokens=4000, ignore_eos=True, temperature=0, stream=True)
    print("ready")
    async for chunk in await AsyncLlama(llama).create_completion(prompt, **options):
        pass
try:
    asyncio.run(main())
except KeyboardInterrupt:
    left = [thread.name for thread in threading.enumerate()]
    print("interrupted", left)
print("goes on", llama("Hello", max_tokens=2, temperature=0)["usage"]["completion_tokens"])
"""

DROPPED = """
import asyncio, sys
from llamacffi import AsyncLlama, Llama
loop = asyncio.new_event_loop()
llm = AsyncLlama(Llama(sys.argv[1], backend="cpu", n_ctx=4096, n_threads=1))
task = loop.create_task(llm.create_completion("Once upon", max_tokens=4000, ignore_eos=True))
loop.run_until_complete(asyncio.sleep(0.5))
print("leaving")
"""


@pytest.mark.parametrize("where", ["prompt", "text"])
def test_ctrl_c(model_path: Path, where: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-u", "-W", "error", "-c", CTRL_C, model_path, where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=HANG_SECONDS)
    assert child.returncode == 0, err
    assert out.splitlines() == ["interrupted ['MainThread']", "goes on 2"]
    assert err == ""


def test_the_interpreter_does_not_wait_for_a_dropped_call(model_path: Path) -> None:
    start = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", DROPPED, model_path],
        capture_output=True,
        text=True,
        timeout=2 * HANG_SECONDS,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout == "leaving\n"
    assert "Fatal" not in child.stderr
    assert time.monotonic() - start < HANG_SECONDS
