"""Batches: rows of many sequences in one decode, and everything a batch must not carry inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacffi import Batch, Context, Model
from llamacffi.errors import (
    ContextFullError,
    EmptyInputError,
    InvalidPositionError,
    InvalidSequenceError,
    InvalidTokenError,
    LlamaCffiError,
    ParameterError,
)
from tests.conftest import CLOSE
from tests.tiny_models import write_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model(write_model(tmp_path_factory.mktemp("batch") / "t.gguf"), backend="cpu") as made:
        yield made


@pytest.fixture
def context(tiny: Model) -> Iterator[Context]:
    with tiny.context(n_ctx=128, n_threads=1, n_seq_max=3, n_batch=16, kv_unified=True) as made:
        yield made


def test_rows(context: Context) -> None:
    batch = Batch()
    assert len(batch) == 0
    assert [batch.add(5, 0), batch.add(6, 1, (0, 1), output=True)] == [0, 1]
    assert len(batch) == 2
    assert repr(batch) == "Batch(2 rows, 1 outputs)"
    batch.clear()
    assert (len(batch), batch.tokens, batch.outputs) == (0, [], [])


def test_several_sequences_at_once(tiny: Model, context: Context) -> None:
    texts = [[5, 300, 7], [20, 21], [9]]
    batch = Batch()
    ends = []
    for sequence, tokens in enumerate(texts):
        for position, token in enumerate(tokens):
            row = batch.add(token, position, [sequence], output=position == len(tokens) - 1)
        ends.append(row)
    context.decode(batch)
    for sequence, tokens in enumerate(texts):
        assert context.memory.tokens(sequence) == tokens
        found = context.logits(ends[sequence]).copy()
        with tiny.context(n_ctx=64, n_threads=1) as alone:
            alone.decode_tokens(tokens)
            assert np.allclose(found, alone.logits(), **CLOSE)
    with pytest.raises(IndexError):
        context.logits(0)  # no output was asked for there


def test_a_shared_prefix(context: Context) -> None:
    batch = Batch()
    for position, token in enumerate([5, 300, 7]):
        batch.add(token, position, (0, 1, 2))
    batch.add(9, 3, (1,), output=True)
    context.decode(batch)
    assert context.memory.tokens(0) == context.memory.tokens(2) == [5, 300, 7]
    assert context.memory.tokens(1) == [5, 300, 7, 9]


def test_a_shared_row_in_separate_buffers(tiny: Model) -> None:
    with tiny.context(n_ctx=128, n_threads=1, n_seq_max=2) as separate:
        batch = Batch()
        batch.add(5, 0, (0, 1), output=True)
        try:
            separate.decode(batch)
        except LlamaCffiError:
            assert separate.memory.tokens(0) == separate.memory.tokens(1) == []
        separate.memory.clear()
        separate.decode_tokens([5])


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ((10**9, 0), InvalidTokenError),
        ((-1, 0), InvalidTokenError),
        ((2**40, 0), InvalidTokenError),
        ((5, -1), InvalidPositionError),
        ((5, 2**31), (InvalidPositionError, ContextFullError)),
        ((5, 2**31 - 1), (InvalidPositionError, ContextFullError)),
        ((5, 256), ContextFullError),
        ((5, 0, ()), InvalidSequenceError),
        ((5, 0, (3,)), InvalidSequenceError),
        ((5, 0, (-1,)), InvalidSequenceError),
        ((5, 0, (2**40,)), InvalidSequenceError),
        ((5, 0, (1, 1)), InvalidSequenceError),
    ],
)
def test_rows_that_cannot_be(
    context: Context, row: tuple[Any, ...], error: type[Exception]
) -> None:
    batch = Batch()
    batch.add(*row)
    with pytest.raises(error):
        context.decode(batch)
    assert [context.memory.tokens(sequence) for sequence in range(3)] == [[], [], []]
    context.decode_tokens([5, 6])


@pytest.mark.parametrize("row", [(None, 0), ("a", 0), (5, None), (5, 0, (None,)), (5, 0, None)])
def test_rows_of_the_wrong_type(row: tuple[Any, ...]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Batch().add(*row)


@pytest.mark.parametrize("row", [(5.7, 0), (5, 0.5), (5, 0, (0.9,))])
def test_fractions_are_not_cut_off(row: tuple[Any, ...]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Batch().add(*row)


@pytest.mark.parametrize("positions", [[0, 0], [1, 0], [0, 2], [0, 1, 1]])
def test_positions_twice_or_backwards(context: Context, positions: list[int]) -> None:
    batch = Batch()
    for position in positions:
        batch.add(5, position)
    with pytest.raises(InvalidPositionError):
        context.decode(batch)
    assert context.memory.tokens() == []


def test_positions_that_are_taken(context: Context) -> None:
    context.decode_tokens([5, 6, 7])
    batch = Batch()
    batch.add(9, 1)
    with pytest.raises(InvalidPositionError):
        context.decode(batch)
    assert context.memory.tokens() == [5, 6, 7]


def test_too_many_rows(context: Context) -> None:
    batch = Batch()
    for position in range(17):
        batch.add(5, position)
    with pytest.raises(ContextFullError, match="n_batch"):
        context.decode(batch)
    with pytest.raises(EmptyInputError):
        context.decode(Batch())


def test_no_room_left(context: Context) -> None:
    for sequence in (0, 1):
        context.decode_tokens([5] * 124, sequence=sequence)
    batch = Batch()
    for position in range(12):
        batch.add(5, position, (2,))
    with pytest.raises(ContextFullError, match="room"):
        context.decode(batch)
    assert context.memory.tokens(2) == []
    assert context.memory.tokens(0) == [5] * 124
    context.memory.remove(1)
    context.decode(batch)


def test_tokens_and_embeddings_do_not_mix(tiny: Model, context: Context) -> None:
    vector = np.zeros(tiny.n_embd_inp)
    batch = Batch()
    batch.add(5, 0)
    with pytest.raises(ParameterError):
        batch.add_embedding(vector, 1)
    other = Batch()
    other.add_embedding(vector, 0)
    with pytest.raises(ParameterError):
        other.add(5, 1)


@pytest.mark.parametrize("width", [0, 1, 31, 33, 1000])
def test_embeddings_of_another_width(context: Context, width: int) -> None:
    batch = Batch()
    batch.add_embedding(np.zeros(width), 0)
    with pytest.raises(ParameterError, match="32"):
        context.decode(batch)


def test_a_batch_can_be_used_again(context: Context) -> None:
    batch = Batch()
    batch.add(5, 0, output=True)
    context.decode(batch)
    first = context.logits().copy()
    context.memory.clear()
    context.decode(batch)
    assert np.array_equal(context.logits(), first)


rows = st.tuples(
    st.integers(-2, 400),
    st.integers(-2, 20),
    st.lists(st.integers(-1, 4), max_size=3).map(tuple),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(rows, max_size=20))
def test_any_batch_is_decoded_or_refused(tiny: Model, rows: list[tuple[Any, ...]]) -> None:
    with tiny.context(n_ctx=64, n_threads=1, n_seq_max=3, n_batch=16, kv_unified=True) as context:
        batch = Batch()
        for row in rows:
            batch.add(*row)
        with suppress(LlamaCffiError):
            context.decode(batch)
        for sequence in range(3):
            known = context.memory.tokens(sequence)
            assert len(known) <= context.memory.position_max(sequence) + 1
        context.memory.clear()
        context.decode_tokens([5, 6])


def test_a_model_file_gone_meanwhile(tmp_path: Path) -> None:
    """The file is mapped: removing its name changes nothing."""
    path = write_model(tmp_path / "gone.gguf")
    with Model(path, backend="cpu") as model, model.context(n_ctx=32, n_threads=1) as context:
        path.unlink()
        context.decode_tokens([5, 6])
