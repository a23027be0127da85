"""How much lists of tokens have in common at their start."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["common_length", "distinct_length"]


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many of the first elements of `a` and `b` are equal.

    Args:
        a: Tokens, in a list, a tuple or a numpy array of one dimension.
        b: Other tokens; may be of another kind and length.
    """
    high = min(len(a), len(b))
    first, second = list(a[:high]), list(b[:high])
    if first == second:
        return high
    low = 0
    # The first `low` are equal and the first `high` are not. Slices are compared in C: no loop of
    # Python's over some thousand tokens for each answer.
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


def distinct_length(texts: Sequence[Sequence[int]]) -> int:
    """How many elements lists have together, where equal beginnings count once.

    Args:
        texts: Lists of tokens.
    """
    ordered = sorted(map(list, texts))
    total = 0
    before: Sequence[int] = ()
    for text in ordered:  # nobody shares more with a list than its neighbour in this order
        total += len(text) - common_length(before, text)
        before = text
    return total
