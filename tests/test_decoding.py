"""Decoding: the same result however it is cut, and everything senseless is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llamacffi import Batch, Context, Model
from llamacffi.errors import (
    ContextFullError,
    EmptyInputError,
    InvalidPositionError,
    InvalidSequenceError,
    InvalidTokenError,
    ParameterError,
)
from tests.conftest import Continue


def whole(context: Context, tokens: list[int]) -> None:
    context.decode_tokens(tokens)


def chunked(context: Context, tokens: list[int]) -> None:
    for first in range(0, len(tokens), 5):
        context.decode_tokens(tokens[first : first + 5])


def one_by_one(context: Context, tokens: list[int]) -> None:
    for position, token in enumerate(tokens):
        context.decode_token(token, position)


def batched(context: Context, tokens: list[int]) -> None:
    batch = Batch()
    for position, token in enumerate(tokens):
        batch.add(token, position, output=position == len(tokens) - 1)
    context.decode(batch)


@pytest.mark.parametrize("way", [whole, chunked, one_by_one, batched])
@pytest.mark.parametrize("parameters", [{}, {"n_batch": 4}, {"n_ubatch": 3}])
def test_every_way_gives_the_same(
    model: Model,
    tokens: list[int],
    continue_greedily: Continue,
    way: Callable[[Context, list[int]], None],
    parameters: dict[str, int],
) -> None:
    if way is batched and "n_batch" in parameters:
        pytest.skip("one batch is one decode")
    with model.context(n_ctx=128, n_threads=1, **parameters) as context:
        way(context, tokens)
        assert context.memory.tokens() == tokens
        assert model.vocab.detokenize(continue_greedily(context, 3)) == " Rome.\n"


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "parameters", "error"),
    [
        ([], {}, EmptyInputError),
        ([-1], {}, InvalidTokenError),
        ([5, 10**9], {}, InvalidTokenError),
        ([2**40], {}, InvalidTokenError),
        ([1.5], {}, (TypeError, InvalidTokenError)),
        ([None], {}, TypeError),
        (["a"], {}, TypeError),
        (None, {}, TypeError),
        ([5], {"sequence": 1}, InvalidSequenceError),
        ([5], {"sequence": -1}, InvalidSequenceError),
        ([5], {"sequence": 2**40}, InvalidSequenceError),
        ([5], {"position": 1}, InvalidPositionError),
        ([5], {"position": -1}, InvalidPositionError),
        ([5], {"position": 2**40}, InvalidPositionError),
        ([5], {"outputs": "some"}, ParameterError),
        ([5] * 257, {}, ContextFullError),  # llama.cpp rounds n_ctx up to 256,
    ],
)
def test_refused(
    small: Context, tokens: Any, parameters: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        small.decode_tokens(tokens, **parameters)
    assert small.memory.position_max() == -1
    small.decode_tokens([5, 6])
    assert small.memory.tokens() == [5, 6]


@pytest.mark.parametrize(
    ("token", "position", "sequence", "error"),
    [
        (-1, 2, 0, InvalidTokenError),
        (10**9, 2, 0, InvalidTokenError),
        (5, 1, 0, InvalidPositionError),
        (5, 0, 0, InvalidPositionError),
        (5, 3, 0, InvalidPositionError),
        (5, -1, 0, InvalidPositionError),
        (5, 256, 0, ContextFullError),
        (5, 2**40, 0, ContextFullError),
        (5, 0, 1, InvalidSequenceError),
        (5, 0, -1, InvalidSequenceError),
        (5, 0, 2**31 - 1, InvalidSequenceError),
    ],
)
def test_a_single_token_refused(
    small: Context, token: int, position: int, sequence: int, error: type[Exception]
) -> None:
    small.decode_tokens([5, 6])
    with pytest.raises(error):
        small.decode_token(token, position, sequence)
    assert small.memory.tokens() == [5, 6]
    small.decode_token(7, 2)


@pytest.mark.parametrize("kind", [tuple, np.array, lambda ids: np.array(ids, np.int32)])
def test_kinds_of_token_lists(small: Context, kind: Callable[[list[int]], Any]) -> None:
    small.decode_tokens(kind([5, 6, 7]))
    assert small.memory.tokens() == [5, 6, 7]


def test_a_full_context_goes_on_after_room_was_made(small: Context) -> None:
    small.decode_tokens([5] * small.n_ctx_seq)
    with pytest.raises(ContextFullError):
        small.decode_tokens([5])
    with pytest.raises(ContextFullError):
        small.decode_token(5, small.n_ctx_seq)
    small.memory.remove(0, 60)
    small.decode_tokens([6])
