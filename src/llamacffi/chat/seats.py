"""Who sits on which sequence of a context: several conversations share one memory."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import Any

from llamacffi.context import Context
from llamacffi.state_format import State

__all__ = ["Seats", "seats_of"]

KEPT_BYTES_MAX = 2 << 30  # of states that wait outside the context


class Seats:
    """Gives sequences of a context to owners, and takes them back from the least recently used.

    What an owner's sequence remembers is kept when it loses its seat, and comes back with the
    next one. Use it with `lock` held, which also keeps a decode and the sampling after it together.

    Args:
        context: The context.
    """

    def __init__(self, context: Context) -> None:
        self.lock = threading.RLock()
        self._context = context
        self._taken: OrderedDict[int, weakref.ref[Any]] = OrderedDict()  # least recent first
        self._kept: weakref.WeakKeyDictionary[Any, State] = weakref.WeakKeyDictionary()

    def sequence_of(self, owner: object) -> int | None:
        """The owner's sequence, if it has one."""
        return next((seq for seq, ref in self._taken.items() if ref() is owner), None)

    def take(self, owner: object, n_tokens: int) -> int:
        """Give the owner a sequence with room for so many tokens, and what it remembered."""
        sequence = self.sequence_of(owner)
        if sequence is None:
            sequence = self._free()
            self._taken[sequence] = weakref.ref(owner)
            self._context.memory.remove(sequence)
        self._taken.move_to_end(sequence)
        self._make_room(sequence, n_tokens)
        state = self._kept.pop(owner, None)
        if state is not None:
            self._context.apply_state(state, sequence)
        return sequence

    def copy(self, source: object, target: object) -> None:
        """Let another owner remember what one remembers, without computing it."""
        sequence = self.sequence_of(source)
        if sequence is None:
            kept = self._kept.get(source)
            if kept is not None:
                self._kept[target] = kept
            return
        unused = [seq for seq in range(self._context.n_seq_max) if self._owner(seq) is None]
        if unused and self._context.params.kv_unified:
            self._context.memory.remove(unused[0])
            self._context.memory.copy(sequence, unused[0])  # the cells are shared
            self._taken[unused[0]] = weakref.ref(target)
        else:
            self._kept[target] = self._context.capture_state(sequence)

    def keep(self, owner: object, state: State) -> None:
        """Let an owner's next sequence begin with this state."""
        self.leave(owner)
        self._kept[owner] = state

    def state_of(self, owner: object) -> State | None:
        """What the owner remembers; None if that is nothing."""
        sequence = self.sequence_of(owner)
        if sequence is None:
            return self._kept.get(owner)
        if self._context.memory.position_max(sequence) < 0:
            return None
        return self._context.capture_state(sequence)

    def leave(self, owner: object) -> None:
        """Take an owner's sequence and memory away."""
        self._kept.pop(owner, None)
        sequence = self.sequence_of(owner)
        if sequence is not None:
            del self._taken[sequence]
            if not self._context.closed:
                self._context.memory.remove(sequence)

    @property
    def empty(self) -> bool:
        """Whether nobody is left."""
        return not self._kept and all(self._owner(sequence) is None for sequence in [*self._taken])

    def _owner(self, sequence: int) -> Any:
        """Who has a sequence. One that its owner was lost of is free again."""
        ref = self._taken.get(sequence)
        owner = None if ref is None else ref()
        if ref is not None and owner is None:
            del self._taken[sequence]
            self._context.memory.remove(sequence)
        return owner

    def _free(self) -> int:
        sequences = range(self._context.n_seq_max)
        free = [sequence for sequence in sequences if self._owner(sequence) is None]
        if free:
            return free[0]
        oldest: int = next(iter(self._taken))
        self._evict(oldest)
        return oldest

    def _evict(self, sequence: int) -> None:
        owner = self._owner(sequence)
        if owner is not None:
            if self._context.memory.position_max(sequence) >= 0:
                self._kept[owner] = self._context.capture_state(sequence)
            self._limit_kept(owner)
        self._taken.pop(sequence, None)
        self._context.memory.remove(sequence)

    def _limit_kept(self, newest: object) -> None:
        """Drop states when they take too much memory: what they remember is computed again."""
        total = sum(state.native_size for state in self._kept.values())
        for owner in [other for other in self._kept if other is not newest]:
            if total <= KEPT_BYTES_MAX:
                break
            total -= self._kept.pop(owner).native_size

    def _make_room(self, sequence: int, n_tokens: int) -> None:
        """In a buffer that all share, send the others away until the tokens fit."""
        context = self._context
        if not context.params.kv_unified:
            return
        for other in [seq for seq in self._taken if seq != sequence]:
            used = sum(context.memory.position_max(s) + 1 for s in self._taken if s != sequence)
            if used + n_tokens <= context.n_ctx:
                return
            self._evict(other)


_seats: weakref.WeakKeyDictionary[Context, Seats] = weakref.WeakKeyDictionary()
_seats_lock = threading.Lock()


def seats_of(context: Context) -> Seats:
    """The seats of a context, the same for all who ask."""
    with _seats_lock:
        found = _seats.get(context)
        if found is None:
            found = _seats[context] = Seats(context)
        return found
