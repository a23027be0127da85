"""Every kind of architecture loads, decodes and remembers as its kind should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from llamacffi.errors import AdapterError, ModelFormatError
from llamacffi.model import Model
from tests.tiny_models import ARCHITECTURES, write_lora, write_model, write_split, write_vocab_only
from tests.tiny_vocabs import VOCABS

GENERATORS = [name for name in ARCHITECTURES if name not in ("t5", "bert")]


def logits(model: Model, tokens: list[int]) -> NDArray[np.float32]:
    with model.context(n_ctx=64, n_threads=1) as context:
        context.decode_tokens(tokens)
        return np.array(context.logits(-1))


@pytest.mark.parametrize("architecture", GENERATORS)
def test_decodes(tmp_path: Path, architecture: str) -> None:
    path = write_model(tmp_path / "model.gguf", architecture)
    assert path.stat().st_size < 1_000_000
    with Model(path, backend="cpu") as model:
        assert model.architecture == architecture
        n_tokens = len(VOCABS[ARCHITECTURES[architecture].vocab].tokens)
        assert model.vocab.n_tokens == n_tokens
        tokens = model.vocab.tokenize("hello the and", add_special=True)
        values = logits(model, tokens)
        assert values.shape == (n_tokens,)
        assert np.isfinite(values).all()
        assert values.std() > 0
        # What it computes depends on what came before, which a broken memory would not show.
        assert not np.allclose(values, logits(model, [*tokens[:-2], tokens[-1]]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vocabulary_round_trip(tmp_path: Path, architecture: str) -> None:
    path = write_vocab_only(tmp_path / "vocab.gguf", architecture)
    with Model(path, backend="cpu", vocab_only=True) as model:
        tokens = model.vocab.tokenize("once upon a time", add_special=False)
        assert model.vocab.detokenize(tokens).strip() == "once upon a time"


def test_memory_kinds(tmp_path: Path) -> None:
    with Model(write_model(tmp_path / "mamba.gguf", "mamba"), backend="cpu") as model:
        assert model.is_recurrent
    with Model(write_model(tmp_path / "gemma3.gguf", "gemma3"), backend="cpu") as model:
        assert model.n_swa == 16


def test_encoder_decoder(tmp_path: Path) -> None:
    with Model(write_model(tmp_path / "t5.gguf", "t5"), backend="cpu") as model:
        assert model.has_encoder
        assert model.has_decoder
        assert model.decoder_start_token == 0
        results = []
        for text in ("hello", "the time"):
            with model.context(n_ctx=64, n_threads=1) as context:
                context.encode(model.vocab.tokenize(text, add_special=True))
                context.decode_tokens([0])
                results.append(np.array(context.logits(-1)))
        assert np.isfinite(results).all()
        assert not np.allclose(results[0], results[1])


def test_encoder_pools(tmp_path: Path) -> None:
    path = write_model(tmp_path / "bert.gguf", "bert")
    with Model(path, backend="cpu") as model, model.context(n_ctx=64, embeddings=True) as context:
        assert context.pooling == "mean"
        context.decode_tokens(model.vocab.tokenize("hello", add_special=True))
        assert np.isfinite(context.pooled_embedding(0)).all()


def test_split(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole.gguf")
    first, second = write_split(tmp_path / "split.gguf")
    with Model(whole, backend="cpu") as one, Model(first, backend="cpu") as two:
        assert one.n_params == two.n_params
        tokens = one.vocab.tokenize("hello")
        assert np.array_equal(logits(one, tokens), logits(two, tokens))
    second.unlink()
    with pytest.raises(ModelFormatError):
        Model(first, backend="cpu")


def test_seeds_differ(tmp_path: Path) -> None:
    paths = [write_model(tmp_path / f"{seed}.gguf", seed=seed) for seed in (0, 1)]
    again = write_model(tmp_path / "again.gguf", seed=0)
    assert paths[0].read_bytes() == again.read_bytes()
    assert paths[0].read_bytes() != paths[1].read_bytes()


def test_lora(tmp_path: Path) -> None:
    from llamacffi.adapter import Adapter

    with Model(write_model(tmp_path / "model.gguf"), backend="cpu") as model:
        tokens = model.vocab.tokenize("hello")
        plain = logits(model, tokens)
        adapter = Adapter(model, write_lora(tmp_path / "lora.gguf"))
        with model.context(n_ctx=64, n_threads=1) as context:
            context.set_adapters([(adapter, 1.0)])
            context.decode_tokens(tokens)
            assert not np.allclose(plain, context.logits(-1))
        with pytest.raises(AdapterError):
            Adapter(model, write_lora(tmp_path / "other.gguf", n_embd=48))
