"""Embeddings through the engine: between the steps of answers, of many callers at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacffi import AsyncEngine, Engine, Llama, Model
from llamacffi.errors import (
    ClosedError,
    ContextFullError,
    DeadlineError,
    EmptyInputError,
    UnsupportedError,
)
from tests.conftest import N_THREADS
from tests.engines import EXACT, engine_on

TEXTS = [
    f"The {adjective} ship sailed {n} times." for n in range(8) for adjective in ("old", "new")
]


@pytest.fixture(scope="module")
def encoder(minilm: Path) -> Iterator[Model]:
    with Model(minilm / "model.gguf", backend="cpu") as made:
        yield made


@pytest.fixture(scope="module")
def vectors(minilm: Path) -> list[Any]:
    """What Llama makes of the texts."""
    with Llama(minilm / "model.gguf", backend="cpu", embedding=True, n_threads=N_THREADS) as llm:
        found: list[Any] = llm.embed(TEXTS, normalize=True)
        return found


def close(a: Any, b: Any) -> bool:
    return float(np.dot(a, b)) > 0.9999


def test_an_encoder_embeds_as_llama_does(encoder: Model, vectors: list[Any]) -> None:
    with Engine(encoder, n_threads=N_THREADS) as engine:
        found = engine.embed(TEXTS, normalize=True)
        assert all(close(a, b) for a, b in zip(found, vectors, strict=True))
        result = engine.create_embedding(TEXTS[:2], model="m")
        assert [len(entry["embedding"]) for entry in result["data"]] == [encoder.n_embd] * 2
        assert engine.stats().totals.embedded_tokens > result["usage"]["prompt_tokens"]
        with pytest.raises(UnsupportedError, match="makes embeddings, not text"):
            engine.create_completion("Hello")
        with pytest.raises(EmptyInputError):
            engine.embed([""])
        with pytest.raises(ContextFullError):
            engine.embed("word " * 2000, truncate=False)


def test_callers_share_decodes(encoder: Model, vectors: list[Any]) -> None:
    computed = []
    with Engine(encoder, n_threads=N_THREADS) as engine:
        embedder = engine._vectors.embedder
        compute = embedder.compute

        def counted(pack: Any) -> Any:
            computed.append(len(pack.indexes))
            return compute(pack)

        embedder.compute = counted  # type: ignore[method-assign]  # to see what goes together
        held = threading.Event()
        engine._loop.run_errand(held.wait)  # until all have asked
        found: dict[int, Any] = {}

        def ask(index: int) -> None:
            found[index] = engine.embed(TEXTS[index], normalize=True)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(TEXTS))]
        for thread in threads:
            thread.start()
        while len(engine._vectors._waiting) < len(TEXTS):
            threading.Event().wait(0.001)
        assert engine._loop._errands.qsize() == 1  # one pack between two steps, whoever asks
        held.set()
        for thread in threads:
            thread.join()
    assert sum(computed) == len(TEXTS)
    assert len(computed) < len(TEXTS) / 2
    assert all(close(found[i], vectors[i]) for i in range(len(TEXTS)))


def test_a_decoder_embeds_while_it_answers(tiny_llama: Model) -> None:
    texts = ["ab", "abcabc", "c"]
    with Llama(
        tiny_llama.path,
        backend="cpu",
        embedding=True,
        pooling_type="mean",
        n_ctx=64,
        n_threads=1,
        flash_attn=False,
        **EXACT,
    ) as llm:
        wanted = llm.embed(texts)
    with engine_on(tiny_llama, pooling="mean") as engine:
        alone = engine.create_completion("abc", max_tokens=100, temperature=0, ignore_eos=True)
        stream = engine.create_completion(
            "abc", max_tokens=100, temperature=0, ignore_eos=True, stream=True
        )
        pieces = [next(stream)]
        found = engine.embed(texts)
        pieces += stream
        assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))
        text = "".join(piece["choices"][0]["text"] for piece in pieces)
        assert text == alone["choices"][0]["text"]


def test_a_decoder_embeds_only_if_it_was_said_how(tiny_llama: Model) -> None:
    with (
        engine_on(tiny_llama) as engine,
        pytest.raises(UnsupportedError, match=r"pooling='mean'"),
    ):
        engine.embed("abc")


def test_asyncio(encoder: Model, vectors: list[Any]) -> None:
    async def main(engine: AsyncEngine) -> list[Any]:
        calls = [engine.embed(text, normalize=True) for text in TEXTS]
        found = await asyncio.gather(*calls)
        with pytest.raises(UnsupportedError, match="no classifier"):
            await engine.rerank("query", ["document"])
        return list(found)

    with Engine(encoder, n_threads=N_THREADS) as engine:
        found = asyncio.run(main(AsyncEngine(engine)))
        assert all(close(a, b) for a, b in zip(found, vectors, strict=True))


def test_waiting_ends(encoder: Model) -> None:
    """By a timeout, by cancelling, by closing: while another errand takes its time."""
    engine = Engine(encoder, n_threads=N_THREADS)
    held = threading.Event()
    engine._loop.run_errand(held.wait)
    with pytest.raises(DeadlineError, match=r"after 0\.01 s"):
        engine.with_options(timeout=0.01).embed("text")

    async def cancelled() -> None:
        task = asyncio.create_task(AsyncEngine(engine).embed("text"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert not engine._vectors.busy
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            engine.embed("text")
        except ClosedError as error:
            errors.append(error)

    waiting = threading.Thread(target=ask)
    waiting.start()
    while not engine._vectors.busy:
        threading.Event().wait(0.001)
    closing = threading.Thread(target=engine.close)
    closing.start()
    while engine._loop.stopped is None:
        threading.Event().wait(0.001)
    held.set()
    closing.join()
    waiting.join()
    assert len(errors) == 1
    with pytest.raises(ClosedError):
        engine.embed("text")


def test_a_pack_that_fails_ends_its_callers_only(encoder: Model) -> None:
    with Engine(encoder, n_threads=N_THREADS) as engine:
        embedder = engine._vectors.embedder
        compute = embedder.compute

        def failing(pack: Any) -> Any:
            raise RuntimeError("broken on purpose")

        embedder.compute = failing  # type: ignore[method-assign]  # the real one does not fail
        with pytest.raises(RuntimeError, match="on purpose"):
            engine.embed(TEXTS)
        embedder.compute = compute  # type: ignore[method-assign]  # it is mended
        assert len(engine.embed(TEXTS)) == len(TEXTS)


def test_prompts_may_be_limited(tiny_llama: Model) -> None:
    with engine_on(tiny_llama) as engine:
        view = engine.with_options(n_prompt_max=3)
        assert view.create_completion([5, 6, 7], max_tokens=1)["usage"]["prompt_tokens"] == 3
        with pytest.raises(ContextFullError, match="4 tokens; 3 are allowed"):
            view.create_completion([5, 6, 7, 8], max_tokens=1)
