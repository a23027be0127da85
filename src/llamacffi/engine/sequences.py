"""The sequences of an engine's context: who has one, and what those that nobody has still know.

A finished request leaves its tokens in the memory. A new one that begins with the same tokens
takes the sequence over, or shares its cells; what was used longest ago is forgotten first.
"""

from __future__ import annotations

from collections.abc import Sequence

from llamacffi.context import Context

__all__ = ["Sequences"]


class Sequences:
    """Gives sequences to requests; used in the engine's thread only.

    Args:
        context: The context; all its sequences are given out.

    Attributes:
        can_share: Whether the beginning of a text can be had from a sequence that is further on.
    """

    def __init__(self, context: Context) -> None:
        self._memory = context.memory
        # A recurrent state is that behind its last token, and cannot be had of one before.
        self.can_share = not (context.model.is_recurrent or context.model.is_hybrid)
        self._n_all = context.n_seq_max
        # Those that nobody has, the one used longest ago first.
        self._idle = list(range(self._n_all))

    @property
    def n_idle(self) -> int:
        """How many nobody has."""
        return len(self._idle)

    def known_prefix(self, tokens: Sequence[int]) -> int:
        """How many of the first tokens need not be computed."""
        return self._best(tokens)[1]

    def take(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Take a sequence; there must be an idle one.

        Args:
            tokens: What is to be computed in it.

        Returns:
            The sequence, and how many of the first tokens it holds already, never all of them.
        """
        donor, kept = self._best(tokens)
        sequence = self._destination(donor, kept)
        self._idle.remove(sequence)
        if sequence == donor:
            if self._memory.position_max(sequence) >= kept:
                self._memory.remove(sequence, kept)
            return sequence, kept
        self._memory.remove(sequence)
        if donor is not None:
            self._memory.copy(donor, sequence, 0, kept)
            if donor in self._idle:  # it was of use: that counts as having been used
                self._idle.remove(donor)
                self._idle.append(donor)
        return sequence, kept

    def release(self, sequence: int) -> None:
        """Give a sequence back; what it knows stays, as long as there is room."""
        self._idle.append(sequence)

    def forget(self, sequence: int) -> None:
        """Forget what a sequence knows that was given back."""
        self._memory.remove(sequence)

    def forget_one(self) -> bool:
        """Forget what was used longest ago and nobody has; false if there is nothing."""
        for sequence in self._idle:
            if self._memory.position_max(sequence) >= 0:
                self._memory.remove(sequence)
                return True
        return False

    def _best(self, tokens: Sequence[int]) -> tuple[int | None, int]:
        """The sequence that knows most of the first tokens, and how many that are."""
        best, kept = None, 0
        if len(tokens) < 2:
            return best, kept
        for sequence in (*reversed(self._idle), *range(self._n_all)):
            # Most know no more than the best one so far: no need to compare from the start.
            if self._memory.token_at(kept, sequence) != tokens[kept]:
                continue
            length = self._memory.reusable_prefix(tokens, sequence)
            if not self.can_share and length <= self._memory.position_max(sequence):
                continue
            if length > kept:
                best, kept = sequence, length
        return best, kept

    def _destination(self, donor: int | None, kept: int) -> int:
        """Where to: into the donor, if little of it is lost, else into what is missed least."""
        if donor in self._idle and donor is not None:
            lost = self._memory.position_max(donor) + 1 - kept
            if lost <= kept or len(self._idle) == 1:
                return donor
        empty = (i for i in self._idle if self._memory.position_max(i) < 0)
        others = (i for i in self._idle if i != donor)
        return next(empty, next(others, self._idle[0]))
