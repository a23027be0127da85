"""The logits processor: follows a text with a matcher and forbids what cannot come next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from llamacffi.errors import GrammarError, NativeError, ParameterError
from llamacffi_llguidance.mask import Mask
from llamacffi_llguidance.messages import readable

__all__ = ["GrammarProcessor"]

# How llguidance's message says that a token did not belong there; any other is a limit or a bug.
_FORBIDDEN = ("doesn't satisfy the grammar", "parser stopped")

Tokens = npt.NDArray[np.intc]


class GrammarProcessor:
    """Forbids every token with which the text would leave its grammar.

    It serves one text at a time; `clone()` makes one for another. A caller may go back in the text
    and on from there. Where nobody calls `begin`, the tokens of the first call are the prompt.

    Args:
        pristine: A matcher that has seen no token. It is copied, not changed.
        size: Tokens in the matcher's vocabulary.
    """

    def __init__(self, pristine: LLMatcher, size: int) -> None:
        self._pristine = pristine
        self._matcher = pristine.deep_copy()
        self._mask = Mask(size)
        self._seen: Tokens | None = None  # the prompt, and what the matcher has consumed
        self._start = 0  # the length of the prompt

    def begin(self, prompt: Sequence[int]) -> None:
        """A new text starts.

        Args:
            prompt: The token ids that the text follows.
        """
        self._restart()
        self._seen = np.array(prompt, np.intc)
        self._start = self._seen.size

    def clone(self) -> GrammarProcessor:
        """A copy at the same place of the same text, which goes its own way from here."""
        copy = GrammarProcessor(self._pristine, self._mask.size)
        copy._matcher = self._matcher.deep_copy()
        copy._seen, copy._start = self._seen, self._start  # replaced, never changed in place
        return copy

    def __call__(self, tokens: Tokens, logits: npt.NDArray[np.float32]) -> None:
        """Set the logits of forbidden tokens to -inf in place.

        Args:
            tokens: The whole sequence so far, prompt and text; shape (n,).
            logits: For the next token; shape (n_vocab,).

        Raises:
            GrammarError: The text has left the grammar: something else chose its tokens.
            ParameterError: The sequence has another prompt than the one that `begin` was given.
            NativeError: llguidance hit one of its limits, or failed.
        """
        self._follow(np.asarray(tokens, np.intc))
        self._mask.compute(self._matcher)
        if self._matcher.is_error():
            raise self._error()
        self._mask.apply(logits)

    def allows(self, tokens: Tokens, token: int) -> bool:
        """Whether a token can come next: a hundredth of the time that the mask takes.

        Args:
            tokens: The whole sequence so far; shape (n,).
            token: The token id.

        Raises: As when it is called.
        """
        self._follow(np.asarray(tokens, np.intc))
        return bool(self._matcher.validate_tokens([token]))

    def _follow(self, tokens: Tokens) -> None:
        if self._seen is None:
            self.begin(tokens)  # type: ignore[arg-type]
            return
        seen = self._seen
        if tokens.size < seen.size or not np.array_equal(tokens[: seen.size], seen):
            seen = self._rewind(tokens, seen)
        self._consume(tokens[seen.size :])
        self._seen = tokens.copy()

    def _rewind(self, tokens: Tokens, seen: Tokens) -> Tokens:
        """Go back to the last place that the sequence shares with what was seen."""
        length = min(tokens.size, seen.size)
        differ = np.flatnonzero(tokens[:length] != seen[:length])
        common = int(differ[0]) if differ.size else length
        if common < self._start:
            raise ParameterError(
                f"The sequence differs at index {common} from the prompt of {self._start} tokens. "
                "Call begin(prompt) before another text."
            )
        self._seen = seen[:common]
        # A matcher that has stopped does not count the end tokens that follow.
        if self._matcher.is_stopped() or not self._matcher.rollback(seen.size - common):
            self._restart()
            self._consume(self._seen[self._start :])
        return self._seen

    def _consume(self, tokens: Tokens) -> None:
        if not tokens.size or self._matcher.consume_tokens(tokens.tolist()):
            return
        error = self._error()
        self._restart()
        if self._seen is not None:  # the caller may go on from what was good
            self._matcher.consume_tokens(self._seen[self._start :].tolist())
        raise error

    def _error(self) -> GrammarError | NativeError:
        message = readable(self._matcher.get_error())
        if any(words in message for words in _FORBIDDEN):
            return GrammarError(
                f"The text has left its grammar: {message} Something chose a token that was "
                "forbidden: look at the samplers and processors after this one."
            )
        return NativeError(
            f"llguidance cannot go on: {message} Simplify the schema or the grammar."
        )

    def _restart(self) -> None:
        # Resetting keeps what the matcher has learnt about the vocabulary; errors are for ever.
        if not self._matcher.reset():
            self._matcher = self._pristine.deep_copy()
