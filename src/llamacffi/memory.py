"""The memory of a context: what it remembers of each sequence (the KV cache, or a state)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llamacffi.errors import InvalidPositionError, InvalidSequenceError, UnsupportedError
from llamacffi.prefix import common_length

if TYPE_CHECKING:
    from llamacffi.context import Context

__all__ = ["Memory"]

EVERY = -1  # any sequence; an open end


class Memory:
    """Edit what a context remembers; `context.memory`, not made directly.

    Positions count from 0; a range is [start, end), with end=-1 for open. Encoder-only models
    have no memory, and everything here does nothing on them.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._library = context.library
        self._lib = context.library.lib
        self._handle = context._handle
        self._error = context.library.new_error()
        # The tokens at positions 0, 1, 2, ... of each sequence, where that is known.
        self._tokens: dict[int, list[int]] = {}

    def check_sequence(self, *sequences: int) -> None:
        """Refuse ids that are not in the context, with InvalidSequenceError."""
        for sequence in sequences:
            if not 0 <= sequence < self._context.n_seq_max:
                raise InvalidSequenceError(
                    f"Sequence {sequence} is not in this context, which has 0 to "
                    f"{self._context.n_seq_max - 1}. Create it with a larger n_seq_max."
                )

    # -- what is there ----------------------------------------------------------------------

    def position_min(self, sequence: int = 0) -> int:
        """Smallest position remembered; -1 if none (llama_memory_seq_pos_min)."""
        self.check_sequence(sequence)
        with self._handle.lock:
            memory = self._lib.llama_get_memory(self._handle.pointer)
            return int(self._lib.llama_memory_seq_pos_min(memory, sequence)) if memory else -1

    def position_max(self, sequence: int = 0) -> int:
        """Largest position remembered; -1 if none (llama_memory_seq_pos_max)."""
        self.check_sequence(sequence)
        with self._handle.lock:
            memory = self._lib.llama_get_memory(self._handle.pointer)
            return int(self._lib.llama_memory_seq_pos_max(memory, sequence)) if memory else -1

    @property
    def can_shift(self) -> bool:
        """Whether positions can be moved (llama_memory_can_shift)."""
        with self._handle.lock:
            memory = self._lib.llama_get_memory(self._handle.pointer)
            return bool(memory and self._lib.llama_memory_can_shift(memory))

    def tokens(self, sequence: int = 0) -> list[int]:
        """The tokens at positions 0, 1, ... of a sequence; empty where that is not known."""
        self.check_sequence(sequence)
        return list(self._tokens.get(sequence, ()))

    def token_at(self, position: int, sequence: int = 0) -> int | None:
        """The token at a position of a sequence; None where that is not known."""
        known = self._tokens.get(sequence, ())
        return known[position] if 0 <= position < len(known) else None

    @property
    def n_known(self) -> int:
        """How many tokens are known of all sequences together; what they share counts for each."""
        return sum(map(len, [*self._tokens.values()]))

    def common_prefix(self, tokens: Sequence[int], sequence: int = 0) -> int:
        """How many of the first tokens the sequence remembers already."""
        self.check_sequence(sequence)
        return common_length(self._tokens.get(sequence, ()), tokens)

    def reusable_prefix(self, tokens: Sequence[int], sequence: int = 0) -> int:
        """How many of the first tokens can stay where they are if the rest is decoded.

        Never all of them: the output of the last one is wanted. None if a sliding window has moved
        past what the next one would attend to. A recurrent state may still refuse to go back.
        """
        kept = min(self.common_prefix(tokens, sequence), len(tokens) - 1)
        window = self._context.model.n_swa
        goes_back = kept <= self.position_max(sequence)
        if window and goes_back and self.position_min(sequence) > max(0, kept - window):
            return 0
        return kept

    # -- editing ----------------------------------------------------------------------------

    def clear(self, data: bool = False) -> None:
        """Forget everything (llama_memory_clear).

        Args:
            data: Overwrite the buffers too, not only the bookkeeping.
        """
        with self._handle.lock:
            self._tokens.clear()
            self._lib.llamacffi_memory_clear(self._handle.pointer, data, self._error)
            self._library.check(self._error, "Clearing the memory", self._handle)

    def remove(self, sequence: int = 0, start: int = 0, end: int = EVERY) -> bool:
        """Forget a range of a sequence (llama_memory_seq_rm).

        Args:
            sequence: Its id; -1 for all.
            start: First position.
            end: The position after the last; -1 for open.

        Returns:
            False if this memory cannot forget a part (a recurrent state); a whole sequence
            always can be.
        """
        if sequence != EVERY:
            self.check_sequence(sequence)
        with self._handle.lock:
            done = self._lib.llamacffi_memory_seq_rm(
                self._handle.pointer, sequence, max(start, 0), end, self._error
            )
            self._library.check(self._error, "Removing from the memory", self._handle)
            if done:
                for known in [*self._tokens] if sequence == EVERY else [sequence]:
                    if known in self._tokens:  # what lies behind a hole is no prefix any more
                        del self._tokens[known][max(start, 0) :]
            return bool(done)

    def copy(self, source: int, target: int, start: int = 0, end: int = EVERY) -> None:
        """Let `target` share what `source` remembers (llama_memory_seq_cp).

        Raises:
            UnsupportedError: A part was asked for, and the sequences have buffers of their own.
        """
        self.check_sequence(source, target)
        part = start > 0 or (end != EVERY and end <= self.position_max(source))
        replaces = not self._context.params.kv_unified  # a buffer of its own is overwritten
        if part and replaces and self._context.n_seq_max > 1:
            raise UnsupportedError(
                "Only a whole sequence can be copied between separate buffers. Copy all and "
                "remove the rest, or create the context with kv_unified=True."
            )
        if source == target:
            return
        with self._handle.lock:
            empty = self.position_max(target) < 0
            self._lib.llamacffi_memory_seq_cp(
                self._handle.pointer, source, target, max(start, 0) if part else EVERY,
                end if part else EVERY, self._error,
            )  # fmt: skip
            self._library.check(self._error, "Copying in the memory", self._handle)
            self.forget_tokens(target)
            if (replaces or empty) and start <= 0:
                known = self._tokens.get(source, [])
                self._tokens[target] = known[: end if part else None]

    def keep(self, sequence: int) -> None:
        """Forget every other sequence.

        One by one: llama_memory_seq_keep leaves sequences with buffers of their own alone.
        """
        self.check_sequence(sequence)
        _ = self._handle.pointer  # refuses a closed context, also where nothing is to be removed
        for other in range(self._context.n_seq_max):
            if other != sequence:
                self.remove(other)

    def shift(self, sequence: int, start: int, end: int, delta: int) -> None:
        """Add `delta` to the positions of a range (llama_memory_seq_add).

        Raises:
            UnsupportedError: This memory cannot shift.
        """
        self._check_shift(sequence)
        with self._handle.lock:
            self._lib.llamacffi_memory_seq_add(
                self._handle.pointer, sequence, start, end, delta, self._error
            )
            self._library.check(self._error, "Shifting the memory", self._handle)
            self._forget_tokens_from(sequence, min(start, start + delta))

    def cut(self, sequence: int, start: int, end: int) -> None:
        """Forget a range and move what is behind it up (llama_memory_seq_rm, _seq_add).

        What is left was computed with the range in sight, which a new computation would not be.

        Raises:
            UnsupportedError: This memory cannot shift.
        """
        self._check_shift(sequence)
        with self._handle.lock:
            behind = self._tokens.get(sequence, [])[end:]
            self.remove(sequence, start, end)
            self.shift(sequence, end, EVERY, start - end)
            known = self._tokens.get(sequence, [])
            if len(known) == start:
                known.extend(behind)

    def divide(self, sequence: int, start: int, end: int, divisor: int) -> None:
        """Divide the positions of a range (llama_memory_seq_div).

        Raises:
            UnsupportedError: This memory cannot shift.
            InvalidPositionError: The divisor is not positive.
        """
        self._check_shift(sequence)
        if divisor < 1:
            raise InvalidPositionError(f"Positions cannot be divided by {divisor}: use 1 or more.")
        with self._handle.lock:
            self._lib.llamacffi_memory_seq_div(
                self._handle.pointer, sequence, start, end, divisor, self._error
            )
            self._library.check(self._error, "Dividing positions", self._handle)
            self._forget_tokens_from(sequence, start // divisor)

    def _check_shift(self, sequence: int) -> None:
        self.check_sequence(sequence)
        if not self.can_shift:
            raise UnsupportedError(
                "The memory of this model cannot shift positions. Remove the tail and decode again."
            )

    # -- bookkeeping, for Context -------------------------------------------------------------

    def note_decoded(self, sequence: int, position: int, tokens: Sequence[int]) -> None:
        """Record tokens that were decoded at consecutive positions."""
        known = self._tokens.setdefault(sequence, [])
        if position <= len(known):
            del known[position:]
            known.extend(tokens)

    def forget_tokens(self, sequence: int | None = None) -> None:
        """Stop claiming to know the tokens of a sequence, or of all."""
        if sequence is None:
            self._tokens.clear()
        else:
            self._tokens.pop(sequence, None)

    def _forget_tokens_from(self, sequence: int, position: int) -> None:
        del self._tokens.get(sequence, [])[max(position, 0) :]
