"""The stretch of an answer in which a model thinks: where it is, and how long it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacffi.errors import ParameterError
from llamacffi.vocab import Vocab

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Thinking", "ThinkingBudget", "ThinkingWatch"]


@dataclass(frozen=True)
class Thinking:
    """How a model marks what it thinks before it answers.

    Attributes:
        start: What begins it, such as "<think>"; "" where only the prompt can begin it.
        ends: What ends it; the first is what a budget that runs out writes.
        begun: Whether the prompt ends inside it already.
    """

    start: str
    ends: tuple[str, ...]
    begun: bool = False


class ThinkingWatch:
    """Follows a text that arrives in pieces, to tell whether its end is inside the thoughts.

    Attributes:
        inside: Whether it is.
        rest: What came behind the end of the thoughts in the last piece.
    """

    def __init__(self, thinking: Thinking) -> None:
        self._thinking = thinking
        self._start = thinking.start.encode()
        self._ends = [end.encode() for end in thinking.ends]
        self._longest = max(map(len, [self._start, *self._ends]))
        self.reset()

    def reset(self) -> None:
        """Begin again, with a new text."""
        self.inside = self._thinking.begun
        self.rest = b""
        self._tail = b""

    def push(self, piece: bytes) -> None:
        """Add a piece."""
        text = self._tail + piece
        self.rest = piece
        while True:
            marks = self._ends if self.inside else [self._start] if self._start else []
            found = [(at, mark) for mark in marks if (at := text.find(mark)) >= 0]
            if not found:
                break
            at, mark = min(found)
            text = self.rest = text[at + len(mark) :]
            self.inside = not self.inside
        self._tail = text[-(self._longest - 1) :] if self._longest > 1 else b""

    def clone(self) -> ThinkingWatch:
        """A copy at the same place."""
        copy = ThinkingWatch.__new__(ThinkingWatch)
        copy.__dict__.update(self.__dict__)
        return copy


class ThinkingBudget:
    """A logits processor that ends the thoughts when they have used up their tokens.

    Args:
        vocab: The model's vocabulary.
        thinking: How the thoughts are marked.
        budget: Most tokens that they may have; 0 to end them at once.
        message: What to write before their end.
    """

    def __init__(self, vocab: Vocab, thinking: Thinking, budget: int, message: str = "") -> None:
        if budget < 0:
            raise ParameterError(f"A reasoning budget of {budget} tokens: choose 0 or more.")
        self._vocab = vocab
        self._watch = ThinkingWatch(thinking)
        self._budget = budget
        self._end = vocab.tokenize(
            message + thinking.ends[0], add_special=False, parse_special=True
        )
        self.begin(())

    def begin(self, prompt: Sequence[int]) -> None:
        """Start with a new text."""
        self._watch.reset()
        self._seen = len(prompt)
        self._used = 0
        self._forced: list[int] = []
        self._last = b""

    def allows(self, tokens: NDArray[np.intc], token: int) -> bool:
        """Whether the token may come next."""
        self._follow(tokens)
        return not self._forced or token == self._forced[0]

    def __call__(self, tokens: NDArray[np.intc], logits: NDArray[np.float32]) -> None:
        """Leave only the next token of the end, when it is time."""
        self._follow(tokens)
        if self._forced:
            kept = float(logits[self._forced[0]])
            logits[:] = -float("inf")
            logits[self._forced[0]] = kept if kept > -float("inf") else 0.0

    def clone(self) -> ThinkingBudget:
        """A copy at the same place."""
        copy = ThinkingBudget.__new__(ThinkingBudget)
        copy.__dict__.update(self.__dict__)
        copy._watch = self._watch.clone()
        copy._forced = list(self._forced)
        return copy

    def _follow(self, tokens: NDArray[np.intc]) -> None:
        for token in tokens[self._seen :].tolist():
            if self._forced and token == self._forced[0]:
                del self._forced[0]
            piece = self._vocab.token_to_piece(token, special=True)
            self._watch.push(piece)
            self._last = (self._last + piece)[-4:]
            self._used += self._watch.inside
            self._end_if_due()
        self._end_if_due()
        self._seen = len(tokens)

    def _end_if_due(self) -> None:
        due = self._watch.inside and self._used >= self._budget
        if due and not self._forced and not _inside_character(self._last):
            self._forced = list(self._end)


def _inside_character(text: bytes) -> bool:
    """Whether more bytes of UTF-8's last character are to come."""
    for back, byte in enumerate(reversed(text[-3:]), 1):
        if byte >= 0xC0:
            return back < 2 + (byte >= 0xE0) + (byte >= 0xF0)
        if byte < 0x80:
            break
    return False
