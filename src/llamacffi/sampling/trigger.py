"""What a lazy grammar waits for."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from llamacffi.errors import ParameterError
from llamacffi.sampling.thinking import Thinking, ThinkingWatch
from llamacffi.vocab import Vocab, check_tokens

__all__ = ["Trigger"]


class Trigger:
    """Watches a text for the first of some patterns, words or tokens.

    llama.cpp's own lazy grammars search with std::regex, which recurses once per character: a text
    of some ten thousand characters overflows the stack. Python's expressions do not.

    Args:
        vocab: Spells the tokens, control tokens too.
        patterns: Regular expressions. Non-ASCII characters in sets match byte by byte.
        words: Plain texts.
        tokens: Token ids.
        thinking: How thoughts are marked, in which nothing triggers.

    Raises:
        ParameterError: A pattern or word that cannot be, or empty.
        InvalidTokenError: A token outside the vocabulary.
    """

    def __init__(
        self,
        vocab: Vocab,
        patterns: Sequence[str],
        words: Sequence[str],
        tokens: Collection[int],
        thinking: Thinking | None = None,
    ) -> None:
        for name, values in (("trigger_patterns", patterns), ("trigger_words", words)):
            if isinstance(values, str) or not all(isinstance(v, str) and v for v in values):
                raise ParameterError(f"{name}={values!r}: give a list of non-empty strings.")
        self._vocab = vocab
        self._tokens = frozenset(check_tokens(tokens, vocab.n_tokens))
        try:
            self._patterns = [re.compile(_shortened(pattern).encode()) for pattern in patterns]
            self._words = [word.encode() for word in words]
        except (re.error, RecursionError, OverflowError, UnicodeEncodeError) as error:
            raise ParameterError(
                f"trigger_patterns={patterns!r:.200}: not a regular expression: {error}."
            ) from None
        self._thoughts = None if thinking is None else ThinkingWatch(thinking)
        self._text = b""
        self.waiting = True

    def push(self, token: int) -> bytes | int | None:
        """Add a token to the text.

        Returns:
            None to go on waiting; else what the grammar is to be given: the text from the trigger
            on (from the pattern's first group that matched), or the token that was the trigger.
        """
        piece = self._vocab.token_to_piece(token, special=True)
        if self._thoughts is not None:
            before_piece = self._thoughts.inside
            self._thoughts.push(piece)
            if self._thoughts.inside:
                self._text = b""
                return None
            piece = self._thoughts.rest if before_piece else piece
        if token in self._tokens:
            self.waiting = False
            return token
        before = len(self._text)
        self._text += piece
        for word in self._words:  # what is new can only be at the end
            start = self._text.find(word, max(0, before - len(word) + 1))
            if start >= 0:
                self.waiting = False
                return self._text[start:]
        for pattern in self._patterns:
            match = pattern.search(self._text)
            if match is not None:
                groups = (match.start(i) for i in range(1, 1 + (pattern.groups or 0)) if match[i])
                self.waiting = False
                return self._text[next(groups, match.start()) :]
        return None

    def reset(self) -> None:
        """Wait again, from the start of a new text."""
        if self._thoughts is not None:
            self._thoughts.reset()
        self._text = b""
        self.waiting = True

    def clone(self) -> Trigger:
        """A copy at the same place."""
        copy = Trigger.__new__(Trigger)
        copy.__dict__.update(self.__dict__)
        copy._thoughts = None if self._thoughts is None else self._thoughts.clone()
        return copy


def _shortened(pattern: str) -> str:
    """Leave out a beginning that skips any text: a search does that anyway, in less time.

    Only where a group says what the grammar is to be given.
    """
    beginning = re.match(r"\^?\[\\(?:s\\S|S\\s)\]\*\?(?=\()(?!\(\?)", pattern)
    return pattern if beginning is None else pattern[beginning.end() :]
