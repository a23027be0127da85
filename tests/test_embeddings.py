"""Embeddings: of tokens and of sequences, as input, and encoders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llamacffi import Batch, Context, Model
from llamacffi.errors import (
    ContextFullError,
    InvalidSequenceError,
    LlamaCffiError,
    UnsupportedError,
)
from tests.conftest import CLOSE
from tests.tiny_models import write_model


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooled_embeddings(tiny_llama: Model, pooling: str) -> None:
    with tiny_llama.context(n_ctx=64, n_threads=1, embeddings=True, pooling=pooling) as context:
        assert context.pooling == pooling
        context.decode_tokens([5, 300, 7])
        found = context.pooled_embedding()
        assert found.shape == (tiny_llama.n_embd_out,)
        assert found.flags.owndata
        context.memory.clear()
        context.decode_tokens([5, 301, 7])
        assert not np.array_equal(context.pooled_embedding(), found) or pooling == "cls"
        for sequence in (1, -1, 10**6):
            with pytest.raises((IndexError, InvalidSequenceError)):
                context.pooled_embedding(sequence)


def test_embeddings_of_tokens(tiny_llama: Model) -> None:
    with (
        tiny_llama.context(n_ctx=64, n_threads=1, embeddings=True, pooling="none") as context,
        tiny_llama.context(n_ctx=64, n_threads=1, embeddings=True, pooling="mean") as pooled,
    ):
        for each in (context, pooled):
            each.decode_tokens([5, 300, 7])
        rows = np.array([context.embeddings(index) for index in range(3)])
        assert rows.shape == (3, tiny_llama.n_embd_out)
        assert np.allclose(rows.mean(axis=0), pooled.pooled_embedding(), **CLOSE)
        with pytest.raises(UnsupportedError):
            context.pooled_embedding()
        with pytest.raises(IndexError):
            context.embeddings(3)


def test_no_embeddings_where_none_are_computed(small: Context) -> None:
    small.decode_tokens([5])
    with pytest.raises(UnsupportedError, match="embeddings=True"):
        small.embeddings()
    with pytest.raises(UnsupportedError, match="embeddings=True"):
        small.pooled_embedding()


def test_an_encoder(tiny_bert: Model) -> None:
    tokens = tiny_bert.vocab.tokenize("hello the time")
    with tiny_bert.context(n_ctx=64, n_threads=1, embeddings=True) as context:
        assert context.pooling == "mean"
        context.decode_tokens(tokens)
        first = context.pooled_embedding()
        context.decode_tokens(tokens)  # it remembers nothing
        assert np.allclose(context.pooled_embedding(), first)
        assert context.memory.position_max() == context.memory.position_min() == -1
        assert context.memory.tokens() == []
        context.memory.clear()
        assert context.memory.remove(0)
        context.warm_up()


@pytest.mark.parametrize("position", [-1, -5, 255, 256, 2**31 - 1, 2**40])
def test_positions_in_an_encoder(tiny_bert: Model, position: int) -> None:
    with tiny_bert.context(n_ctx=64, n_threads=1, embeddings=True) as context:
        with pytest.raises((LlamaCffiError, OverflowError)):
            context.decode_tokens([5, 6], position=position)
        context.decode_tokens([5, 6])


IN_CHILD = """
import sys
import llamacffi
model = llamacffi.Model(sys.argv[1], backend="cpu")
try:
    context = model.context(
        n_ctx=1024, n_batch=1024, n_ubatch=1024, n_threads=2,
        embeddings=model.architecture == "bert",
    )
    context.decode_tokens([5] * 300)  # the last ones are a worker's
except llamacffi.errors.LlamaCffiError as error:
    print("refused", type(error).__name__)
else:
    print("decoded")
"""


@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_more_positions_than_the_model_has(architecture: str, tmp_path: Path) -> None:
    """Learned positions end with n_ctx_train: one more is read out of the tensor's bounds, and the
    assertion fails in a worker thread, which nobody can catch. Hence in a child process.
    """
    path = write_model(tmp_path / "t.gguf", architecture)
    child = subprocess.run(
        [sys.executable, "-c", IN_CHILD, str(path)], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr[-300:]
    assert child.stdout.startswith("refused")
    assert "NativeError" not in child.stdout, "it was tried"


def test_a_text_too_long_for_an_encoder(tiny_bert: Model) -> None:
    with tiny_bert.context(n_ctx=64, n_batch=8, n_threads=1, embeddings=True) as context:
        with pytest.raises(ContextFullError):
            context.decode_tokens([5] * 9)
        context.decode_tokens([5] * 8)


def test_embeddings_as_input(tiny_llama: Model) -> None:
    random = np.random.default_rng(0)
    with tiny_llama.context(n_ctx=64, n_threads=1) as context:
        batch = Batch()
        for position in range(3):
            batch.add_embedding(
                random.random(tiny_llama.n_embd_inp), position, output=position == 2
            )
        context.decode(batch)
        assert np.isfinite(context.logits()).all()
        assert context.memory.tokens() == []
        assert context.memory.position_max() == 2
        context.decode_tokens([5])
        assert context.memory.tokens() == [], "the tokens before are not known"


def test_only_encoders_encode(small: Context) -> None:
    with pytest.raises(UnsupportedError, match="no encoder"):
        small.encode([5])
