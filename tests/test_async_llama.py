"""`AsyncLlama` on the real model: results, signatures and exceptions are those of `Llama`."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest

from llamacffi import AsyncLlama, Llama
from llamacffi.errors import (
    ContextFullError,
    ParameterError,
)
from tests.async_completions import (
    LONG,
    async_llama,
    blocking,
    expected_text,
    streamed_text,
    text,
    watched,
)
from tests.completions import GREEDY, PROMPT, complete, text_of
from tests.worker_threads import in_loop, workers

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


llama = pytest.fixture(scope="module")(blocking)
llm = pytest.fixture(async_llama)
wanted = pytest.fixture(expected_text)
no_threads = pytest.fixture(autouse=True)(watched)


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
