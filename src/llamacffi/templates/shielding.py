"""Tokenising a prompt so that nothing in a message can become a control token."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from llamacffi.vocab import Vocab

__all__ = ["shielded_tokens"]

Part = tuple[str, bool]


def shielded_tokens(vocab: Vocab, parts: Sequence[Part]) -> list[int]:
    """The tokens of (text, trusted) pairs; only trusted text becomes control tokens.

    A control token that is spelled with any character of untrusted text, be it one, stays text.
    The stretch of text around it, from the control token before to the one after, is tokenised
    without control tokens; everything else as if it were one text.
    """
    return [
        token
        for text, parse_special in _stretches(vocab, parts)
        if text
        for token in vocab.tokenize(text, add_special=False, parse_special=parse_special)
    ]


def _stretches(vocab: Vocab, parts: Sequence[Part]) -> Iterator[Part]:
    """Texts to be tokenised one by one, and whether control tokens are to be read in them."""
    text = "".join(part for part, _ in parts)
    control, marks = vocab.control_spellings, vocab.mark_spellings
    trust = _Trust(parts)
    spelled = _spans(control, text)
    trusted = {span for span in spelled if trust.all_of(*span)}
    forged = [span for span in spelled if span not in trusted]
    # Marks are no control tokens, and are read in any text. Those that the template uses count.
    marked = _spans(marks, text)
    used = {text[slice(*span)] for span in marked if trust.all_of(*span)}
    forged_marks = [
        span for span in marked if text[slice(*span)] in used and not trust.all_of(*span)
    ]
    if not forged and not forged_marks:
        yield text, True
        return
    edges = sorted({0, len(text), *(edge for span in trusted for edge in span)})
    plain = 0  # where the text begins that can be tokenised in one go
    for start, end in pairwise(edges):
        inside = [mark for mark, _ in forged_marks if start <= mark < end]
        if not inside and not any(a < end and b > start for a, b in forged):
            continue
        if (start, end) in trusted:
            continue
        yield text[plain:start], True
        for cut in inside:  # broken after its first character, a mark is no mark
            yield text[start : cut + 1], False
            start = cut + 1
        yield text[start:end], False
        plain = end
    yield text[plain:], True


def _spans(pattern: re.Pattern[str] | None, text: str) -> list[tuple[int, int]]:
    """Where the pattern matches, overlapping matches included."""
    if pattern is None:
        return []
    return [(match.start(), match.end(1)) for match in pattern.finditer(text)]


class _Trust:
    """Which characters of the joined parts are trusted."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._ends = list(accumulate(len(text) for text, _ in parts))
        self._trusted = [trusted for _, trusted in parts]

    def all_of(self, start: int, end: int) -> bool:
        first = bisect.bisect_right(self._ends, start)
        last = bisect.bisect_right(self._ends, end - 1)
        return all(self._trusted[first : last + 1])
