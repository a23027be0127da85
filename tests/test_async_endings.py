"""All ends of an `AsyncLlama`: loading, closing, the loop's end, Ctrl-C, the interpreter's end."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llamacffi import AsyncLlama, Llama
from llamacffi.errors import (
    ClosedError,
    ModelNotFoundError,
)
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
from tests.completions import PROMPT, complete, text_of
from tests.worker_threads import HANG_SECONDS, in_loop, workers

llama = pytest.fixture(scope="module")(blocking)
llm = pytest.fixture(async_llama)
wanted = pytest.fixture(expected_text)
no_threads = pytest.fixture(autouse=True)(watched)


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
