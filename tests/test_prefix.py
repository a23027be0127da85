"""The common start of two lists of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacffi.prefix import common_length, distinct_length

TOKENS = st.lists(st.integers(0, 3), max_size=40)


def counted(a: Sequence[int], b: Sequence[int]) -> int:
    """The same, one by one."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


@given(TOKENS, TOKENS)
def test_any_two_lists(a: list[int], b: list[int]) -> None:
    assert common_length(a, b) == common_length(b, a) == counted(a, b)


@given(TOKENS, TOKENS, TOKENS)
def test_lists_that_begin_alike(start: list[int], a: list[int], b: list[int]) -> None:
    before = [*start, *a], [*start, *b]
    given = [*start, *a], [*start, *b]
    assert common_length(*given) == len(start) + counted(a, b)
    assert given == before


@pytest.mark.parametrize("place", range(17))
def test_one_that_differs_at_each_place(place: int) -> None:
    tokens = list(range(17))
    other = [*tokens[:place], -1, *tokens[place + 1 :]]
    assert common_length(tokens, other) == place


@pytest.mark.parametrize("kind", [list, tuple, lambda tokens: np.array(tokens, np.int32)])
@given(TOKENS, TOKENS)
def test_kinds_of_lists(
    kind: Callable[[list[int]], Sequence[int]], a: list[int], b: list[int]
) -> None:
    found = common_length(a, kind(b))
    assert found == common_length(kind(a), b) == counted(a, b)
    assert type(found) is int


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=6))
def test_equal_beginnings_count_once(texts: list[list[int]]) -> None:
    beginnings = {tuple(text[:end]) for text in texts for end in range(1, len(text) + 1)}
    assert distinct_length(texts) == len(beginnings)
