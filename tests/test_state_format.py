"""The format of saved states: any state comes back, any other bytes are refused in words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacffi.errors import (
    StateError,
)
from llamacffi.state_format import MAGIC, PREFIX, Remembered, State, decode


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.lists(st.integers(0, 2**31 - 1), max_size=9)),
        max_size=5,
        unique_by=lambda row: row[0],
    ),
    st.binary(max_size=50),
    st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=5), max_size=3),
)
def test_any_state_comes_back(
    rows: list[tuple[int, list[int]]], native: bytes, conditions: dict[str, Any]
) -> None:
    sequences = tuple(
        Remembered(number, 0, len(tokens), np.array(tokens, "<i4")) for number, tokens in rows
    )
    state = State(conditions, {"n": 1}, True, sequences, memoryview(native), len(native))
    data = b"".join(state.pieces())
    again = decode(data)
    assert (again.conditions, again.about, bytes(again.native)) == (conditions, {"n": 1}, native)
    assert [(s.sequence, s.tokens.tolist()) for s in again.sequences] == rows
    assert b"".join(again.pieces()) == data


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 2**64 - 1))
def test_any_bytes_are_refused_in_words(text: bytes, length: int, native: int) -> None:
    for data in (text, MAGIC + text, PREFIX.pack(MAGIC, 1, length, native, b"") + text):
        with pytest.raises(StateError):
            decode(data)


@pytest.mark.parametrize("rows", [
    [[0, 0, 4]], [[0, 0, 4, 9]], [[0, 0, 4, -1]], [[-1, 0, 4, 2]], [[0, 5, 4, 2]],
    [[0, 0, True, 1]], [[0, 0, 2**40, 1]], "x", None, [[0, -2, 4, 1]], [[0, 0, 4, 1], [0, 0, 4, 1]],
])  # fmt: skip
def test_headers_that_make_no_sense(rows: Any) -> None:
    header = {"kind": "whole", "conditions": {}, "about": {}, "sequences": rows}
    text = json.dumps(header).encode()
    with pytest.raises(StateError, match="damaged"):
        decode(PREFIX.pack(MAGIC, 1, len(text), 0, b"") + text)
