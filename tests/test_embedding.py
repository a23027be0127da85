"""Texts to vectors on tiny models: packs, pooling, memory, truncation, and what is refused."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from openai.types import CreateEmbeddingResponse

from llamacffi import AsyncLlama, Llama
from llamacffi.embedding import Embedder
from llamacffi.errors import (
    ClosedError,
    ContextFullError,
    DecodeError,
    EmptyInputError,
    InvalidTokenError,
    ParameterError,
    UnsupportedError,
)
from llamacffi.native.handle import live_handles
from tests.tiny_models import write_model
from tests.worker_threads import in_loop

TEXTS = [
    "hello",
    "once upon a time",
    "the and the",
    "in on an up",
    "a " * 30,
    "hello the time, once",
    "e",
    "once upon a time there",
]
Make = Callable[..., Llama]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedding")


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    """Makes an embedding Llama of a tiny model."""
    made = []

    def new(architecture: str, **settings: Any) -> Llama:
        path = folder / f"{architecture}.gguf"
        if not path.exists():
            write_model(path, architecture)
        given = {"backend": "cpu", "embedding": True, "n_ctx": 128, "n_threads": 1} | settings
        made.append(Llama(path, **given))
        return made[-1]

    yield new
    for llama in made:
        llama.close()


def near(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=0.02, atol=0.005)


# -- packs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["none", "mean", "cls", "last"])
@pytest.mark.parametrize("architecture", ["bert", "llama", "gemma3", "mamba", "jamba", "t5"])
def test_packed_is_as_one_at_a_time(make: Make, architecture: str, pooling: str) -> None:
    llama = make(architecture, pooling_type=pooling)
    embedder = Embedder(llama.context)
    tokens = embedder.tokenize(TEXTS)
    packs = list(embedder.packs(tokens))
    assert len(packs) < len(TEXTS)  # several at once
    assert sorted(index for pack in packs for index in pack.indexes) == list(range(len(TEXTS)))
    together = llama.embed(TEXTS)
    for index, text in enumerate(TEXTS):
        alone = llama.embed(text)
        assert alone.dtype == np.float32
        rows = (len(tokens[index]),) if pooling == "none" else ()
        assert alone.shape == (*rows, llama.n_embd())
        assert np.isfinite(alone).all()
        assert near(together[index], alone)
    only_bos = pooling == "cls" and llama.context.generates and llama.model.vocab.add_bos
    assert near(together[0], together[1]) == only_bos


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("unified", [True, False])
def test_any_context_will_do(make: Make, unified: bool, pooling: str) -> None:
    llama = make("llama", pooling_type=pooling)
    wanted = llama.embed(TEXTS)
    with llama.model.context(
        n_ctx=256, n_seq_max=4, embeddings=True, pooling=pooling, kv_unified=unified, n_threads=1
    ) as context:
        embedder = Embedder(context)
        found = embedder.run(embedder.tokenize(TEXTS))
        assert all(map(near, found, wanted))
        assert all(context.memory.position_max(sequence) == -1 for sequence in range(4))


def test_other_work_between_packs(make: Make) -> None:
    llama = make("llama", pooling_type="last")
    wanted = llama.embed(TEXTS)
    embedder = Embedder(llama.context, pack_tokens=8)
    tokens = embedder.tokenize(TEXTS)
    text = llama.tokenize("hello the")
    llama.context.decode_tokens(text[:-1])
    found: dict[int, Any] = {}
    logits = []
    for pack in embedder.packs(tokens):
        found.update(zip(pack.indexes, embedder.compute(pack), strict=True))
        llama.context.decode_tokens(text[-1:])
        logits.append(llama.context.logits().copy())
        llama.context.memory.remove(0, len(text) - 1)
    assert len(logits) > 2
    assert all(np.allclose(row, logits[0], atol=0.01) for row in logits)
    assert all(near(found[index], wanted[index]) for index in range(len(TEXTS)))


def test_a_decoder_embeds_texts_longer_than_a_batch(make: Make) -> None:
    long = "hello the time " * 20
    whole = make("llama", n_ctx=512, pooling_type="last").embed(long, truncate=False)
    llama = make("llama", n_ctx=512, n_batch=32, n_ubatch=16, pooling_type="last")
    assert near(llama.embed(long, truncate=False), whole)
    by_token = make("llama", n_ctx=512, n_batch=32, n_ubatch=16, pooling_type="none").embed(long)
    assert len(by_token) == len(llama.tokenize(long))
    assert near(by_token[-1], whole)
    with pytest.raises(ContextFullError, match="Text 0 has"):  # a mean needs all of it at once
        make("llama", n_ctx=512, n_batch=32, pooling_type="mean").embed(long, truncate=False)


# -- the memory, and what else the Llama does -----------------------------------------------------


def test_prompts_stay_in_the_memory(make: Make) -> None:
    llama = make("llama", pooling_type="mean")
    prompt = "once upon a time"
    first = llama.create_completion(prompt, max_tokens=4, temperature=0)
    known = llama.context.memory.tokens(0)
    assert known
    llama.embed(TEXTS[:4])
    assert llama.context.memory.tokens(0) == known
    assert llama.context.memory.position_max(0) == len(known) - 1
    again = llama.create_completion(prompt, max_tokens=4, temperature=0)
    assert again["choices"] == first["choices"]


def test_what_has_no_room_is_forgotten_honestly(make: Make) -> None:
    llama = make("llama", pooling_type="last", n_ctx=256)
    prompt = "a " * 90
    first = llama.create_completion(prompt, max_tokens=4, temperature=0)
    llama.embed("the " * 200, truncate=False)
    assert llama.context.memory.tokens(0) == []
    assert llama.context.memory.position_max(0) == -1
    again = llama.create_completion(prompt, max_tokens=4, temperature=0)
    assert again["choices"] == first["choices"]


def test_embeddings_are_off_while_completing(make: Make) -> None:
    llama = make("llama", pooling_type="mean")
    llama.embed(TEXTS)
    llama.context.decode_tokens(llama.tokenize("once upon a time"))
    assert llama.context.logits(-1).shape == (llama.n_vocab(),)
    with pytest.raises(IndexError):  # an output of an earlier token would have cost its logits
        llama.context.logits(0)
    with pytest.raises(UnsupportedError):
        llama.context.embeddings()


def test_no_context_is_made_for_a_call(make: Make) -> None:
    llama = make("bert")
    context, before = llama.context, live_handles()
    llama.embed(TEXTS)
    llama.create_embedding(TEXTS)
    assert llama.context is context
    assert live_handles() == before


def test_threads(make: Make) -> None:
    llama = make("llama", pooling_type="mean")
    wanted = llama.embed(TEXTS)
    answer = llama.create_completion("hello", max_tokens=8, temperature=0)["choices"]
    failures: list[str] = []

    def embed() -> None:
        right = [all(map(near, llama.embed(TEXTS), wanted)) for _ in range(5)]
        failures.extend("vectors" for same in right if not same)

    def complete() -> None:
        for _ in range(5):
            found = llama.create_completion("hello", max_tokens=8, temperature=0)["choices"]
            failures.extend(["text"] * (found != answer))

    threads = [threading.Thread(target=target) for target in (embed, complete, embed)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []


def test_awaited(make: Make) -> None:
    llama = make("bert")

    async def main() -> None:
        llm = AsyncLlama(llama)
        assert near(await llm.embed("hello"), llama.embed("hello"))
        result = await llm.create_embedding(["hello", "the"])
        assert result == llama.create_embedding(["hello", "the"])

    in_loop(main)


# -- results --------------------------------------------------------------------------------------


def test_openais_shape(make: Make) -> None:
    llama = make("bert")
    vectors, count = llama.embed(TEXTS, return_count=True)
    assert count == sum(len(llama.tokenize(text)) for text in TEXTS)
    for given, name in (("float", None), ("base64", "mine")):
        result = llama.create_embedding(TEXTS, model=name, encoding_format=given)
        assert result["model"] == (name or llama.model_path)
        assert result["usage"] == {"prompt_tokens": count, "total_tokens": count}
        assert [entry["index"] for entry in result["data"]] == list(range(len(TEXTS)))
        for entry, vector in zip(result["data"], vectors, strict=True):
            numbers = entry["embedding"]
            if given == "base64":
                numbers = np.frombuffer(base64.b64decode(numbers), "<f4")
            assert np.array_equal(np.float32(numbers), vector)
    CreateEmbeddingResponse.model_validate(llama.create_embedding(TEXTS), strict=True)
    assert len(llama.create_embedding("hello")["data"]) == 1


def test_token_ids_are_taken(make: Make) -> None:
    llama = make("bert")
    tokens = [llama.tokenize(text) for text in TEXTS]
    assert all(map(near, llama.embed(tokens), llama.embed(TEXTS)))
    assert near(llama.embed(tokens[1]), llama.embed(TEXTS[1]))
    assert near(llama.embed(np.array(tokens[1])), llama.embed(TEXTS[1]))
    assert near(llama.embed(TEXTS[1].encode()), llama.embed(TEXTS[1]))


@pytest.mark.parametrize(
    ("normalize", "norm"),
    [(True, 2), ("euclidean", 2), ("taxicab", 1), (3, 3), ("max-absolute", np.inf)],
)
def test_norms(make: Make, normalize: Any, norm: float) -> None:
    llama = make("bert")
    plain, vector = llama.embed("hello"), llama.embed("hello", normalize=normalize)
    length = np.linalg.norm(vector.astype(float), norm)
    assert length == pytest.approx(32760 if norm == np.inf else 1, rel=1e-5)
    assert np.allclose(vector * np.linalg.norm(plain, norm) / length, plain, rtol=1e-4)
    assert near(llama.embed("hello", normalize="none"), plain)
    by_token = make("bert", pooling_type="none").embed("hello", normalize=normalize)
    assert np.linalg.norm(by_token, norm, axis=-1) == pytest.approx(length, rel=1e-5)


def test_dimensions(make: Make) -> None:
    llama = make("bert")
    plain = llama.embed("hello")
    short = llama.embed("hello", dimensions=5)
    assert np.allclose(short, plain[:5] / np.linalg.norm(plain[:5]), atol=1e-6)
    assert np.array_equal(llama.embed("hello", "none", dimensions=5), plain[:5])
    result = llama.create_embedding("hello", dimensions=5)["data"][0]["embedding"]
    assert np.allclose(result, short)
    for wrong in (0, -1, 33):
        with pytest.raises(ParameterError, match="have 32"):
            llama.embed("hello", dimensions=wrong)


# -- what does not fit, and what is wrong ---------------------------------------------------------


def test_truncation(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    llama = make("bert", n_ctx=16)
    assert llama.context.n_ubatch == 16
    letters = "a b c d e f g h i j k l m n o p q r s t"
    bos, *inner, sep = llama.tokenize(letters)
    for truncate, kept in ((True, inner[:14]), ("end", inner[:14]), ("start", inner[-14:])):
        found = llama.embed(["a", letters], truncate=truncate)[1]
        assert near(found, llama.embed([bos, *kept, sep]))
        assert "1 of 2 texts were cut to 16 tokens" in caplog.text
        caplog.clear()
    with pytest.raises(ContextFullError, match="Text 1 has 22 tokens.* embeds 16"):
        llama.embed(["a", letters], truncate=False)
    fits = letters[: 14 * 2]
    assert near(llama.embed(fits, truncate=False), llama.embed(fits))
    assert not caplog.text
    with pytest.raises(ParameterError, match="middle"):
        llama.embed("a", truncate="middle")


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_hostile_input(make: Make, architecture: str) -> None:
    llama = make(architecture, pooling_type="mean")
    n_vocab = llama.n_vocab()
    assert llama.embed([]) == []
    wrong: list[tuple[Any, type[Exception]]] = [
        ("", EmptyInputError),
        (["hello", ""], EmptyInputError),
        ([[]], EmptyInputError),
        ([[0, n_vocab]], InvalidTokenError),
        ([-1], InvalidTokenError),
        ([2**40], InvalidTokenError),
        ([["a"]], TypeError),
        ([None], TypeError),
        (5, TypeError),
        ("\ud800 hello", ParameterError),
    ]
    for given, error in wrong:
        with pytest.raises(error):
            llama.embed(given)
        with pytest.raises(error):
            llama.create_embedding(given)
    with pytest.raises(EmptyInputError):
        llama.create_embedding([])
    for text in ("\0", "a\0b", "\U0010ffff", " \n", b"\xff\xfe", "hello " * 20_000):
        assert np.isfinite(llama.embed(text)).all()
    with pytest.raises(ContextFullError):
        llama.embed("hello " * 20_000, truncate=False)
    for settings in (
        {"normalize": "length"}, {"normalize": 0}, {"normalize": 1}, {"normalize": float("nan")},
    ):  # fmt: skip
        with pytest.raises(ParameterError):
            llama.embed("hello", **settings)
    with pytest.raises(ParameterError):
        llama.create_embedding("hello", encoding_format="hex")
    assert near(llama.embed("hello"), llama.embed(["the", "hello"])[1])  # nothing was broken


def test_what_a_llama_was_not_made_for(make: Make) -> None:
    with pytest.raises(UnsupportedError, match="embedding=True"):
        make("llama", embedding=False).embed("hello")
    by_token = make("bert", pooling_type="none")
    assert len(by_token.create_embedding("hello")["data"][0]["embedding"]) > 1
    with pytest.raises(UnsupportedError, match="per token"):
        by_token.create_embedding("hello", encoding_format="base64")


def test_closed(make: Make) -> None:
    llama = make("bert")
    llama.close()
    for call in (llama.embed, llama.create_embedding):
        with pytest.raises(ClosedError):
            call("hello")


def test_arrays_over_the_outputs_are_not_overwritten(make: Make) -> None:
    llama = make("llama", pooling_type="mean")
    llama.context.decode_tokens(llama.tokenize("hello"))
    logits = llama.context.logits()
    before = logits.copy()
    with pytest.raises(DecodeError, match="Copy"):
        llama.embed(TEXTS)
    assert np.array_equal(logits, before)
    del logits
    assert len(llama.embed(TEXTS)) == len(TEXTS)
