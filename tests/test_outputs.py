"""Outputs of a context: views of the logits, which rows there are, and how long they live."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from llamacffi import Batch, Context, Model
from llamacffi.errors import (
    ClosedError,
    ContextFullError,
    DecodeError,
)
from tests.conftest import CLOSE
from tests.tiny_models import write_model


def test_logits_are_a_view(small: Context) -> None:
    small.decode_tokens([5, 300])
    logits = small.logits()
    assert logits.shape == (small.model.vocab.n_tokens,)
    assert logits.dtype == np.float32
    assert logits.flags.writeable
    assert not logits.flags.owndata
    logits[7] = 1234.5
    assert small.logits()[7] == 1234.5, "it was a copy"


def test_all_outputs(small: Context) -> None:
    ids = [5, 300, 7, 9]
    small.decode_tokens(ids, outputs="all")
    rows = [small.logits(index).copy() for index in range(4)]
    for index in range(4):
        assert np.array_equal(rows[index], small.logits(index - 4))
    small.memory.clear()
    for position, token in enumerate(ids):
        small.decode_token(token, position)
        assert np.allclose(small.logits(), rows[position], **CLOSE)


def test_no_outputs(small: Context) -> None:
    small.decode_tokens([5, 300], outputs="none")
    with pytest.raises(IndexError):
        small.logits()
    assert small.memory.position_max() == 1


@pytest.mark.parametrize("index", [1, 2, -2, 10**6, -(10**6), 2**31 - 1, 2**40])
def test_outputs_that_are_not_there(small: Context, index: int) -> None:
    small.decode_tokens([5], outputs="last")
    with pytest.raises(IndexError, match=str(index)):
        small.logits(index)
    assert small.logits(0)[5] == small.logits(-1)[5]


def test_before_any_decode(small: Context) -> None:
    with pytest.raises(IndexError):
        small.logits()


def test_a_view_outlives_its_context(tiny_llama: Model) -> None:
    context = tiny_llama.context(n_ctx=32, n_threads=1)
    context.decode_tokens([5])
    view, wanted = context.logits(), context.logits().copy()
    part = context.logits()[10:20]
    context.close()
    gc.collect()
    assert np.array_equal(view, wanted)
    del view
    gc.collect()
    assert np.array_equal(part, wanted[10:20]), "a slice of a view keeps it, too"
    with pytest.raises(ClosedError):
        context.logits()


def test_a_view_outlives_its_model(tmp_path: Path) -> None:
    model = Model(write_model(tmp_path / "t.gguf"), backend="cpu")
    context = model.context(n_ctx=32, n_threads=1)
    context.decode_tokens([5])
    view, wanted = context.logits(), context.logits().copy()
    model.close()
    assert np.array_equal(view, wanted)


def test_the_buffer_does_not_grow_under_a_view(small: Context) -> None:
    small.decode_tokens([5])
    view = small.logits()
    with pytest.raises(DecodeError, match="Copy"):
        small.decode_tokens([5, 6, 7], outputs="all")
    assert small.memory.position_max() == 0
    small.decode_tokens([5, 6, 7])  # one row fits
    assert np.isfinite(view).all()
    del view
    small.decode_tokens([5, 6, 7], outputs="all")
    assert np.isfinite(small.logits(2)).all()


def test_more_outputs_than_there_is_room(tiny_llama: Model) -> None:
    with tiny_llama.context(n_ctx=64, n_threads=1, n_outputs_max=3) as context:
        context.decode_tokens([5, 6, 7], outputs="all")
        with pytest.raises(ContextFullError, match="n_outputs_max"):
            context.decode_tokens([5, 6, 7, 8], outputs="all")
        context.decode_tokens([5, 6, 7, 8])
        batch = Batch()
        for position in range(7, 11):
            batch.add(5, position, output=True)
        with pytest.raises(ContextFullError, match="n_outputs_max"):
            context.decode(batch)
