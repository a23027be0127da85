"""Who sits on which sequence of a context: several conversations share one memory."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from llamacffi.context import Context
from llamacffi.errors import ClosedError, StateError, UnsupportedError
from llamacffi.prompt_cache import PromptCache
from llamacffi.state_format import State
from llamacffi.turn import Turn

__all__ = ["Seats", "seats_of"]

KEPT_BYTES_MAX = 2 << 30  # of states that wait outside the context
CHECKPOINT_BYTES = 256 << 20

_Result = TypeVar("_Result")

_log = logging.getLogger("llamacffi.chat")


class Seats:
    """Gives sequences of a context to owners, and takes them back from the least recently used.

    What an owner's sequence remembers is kept when it loses its seat, and comes back with the
    next one. Use it with `lock` held, which also keeps a decode and the sampling after it together.

    Args:
        context: The context; it is not kept alive.

    Attributes:
        lock: Held while one owner decodes and samples.
        turn: That of a `Llama` with which the context is shared.
        members: All who joined and have not left.
        checkpoints: Where a memory that cannot go back to any place can go back to; None for one
            that can.
    """

    def __init__(self, context: Context) -> None:
        self.lock = threading.RLock()
        self.turn: Turn | None = None
        self.members: weakref.WeakSet[Any] = weakref.WeakSet()
        model = context.model
        goes_back = not (model.is_recurrent or model.is_hybrid or model.n_swa)
        self.checkpoints = None if goes_back else PromptCache(CHECKPOINT_BYTES)
        self._reference = weakref.ref(context)
        # An encoder's output is the context's, not a sequence's.
        self._n_seats = 1 if model.has_encoder else context.n_seq_max
        self._taken: OrderedDict[int, weakref.ref[Any]] = OrderedDict()  # least recent first
        self._kept: weakref.WeakKeyDictionary[Any, State] = weakref.WeakKeyDictionary()

    @property
    def context(self) -> Context:
        """The context.

        Raises:
            ClosedError: It is gone.
        """
        context = self._reference()
        if context is None:
            raise ClosedError("The context of this conversation is gone. Make another session.")
        return context

    def sequence_of(self, owner: object) -> int | None:
        """The owner's sequence, if it has one."""
        return next((seq for seq, ref in self._taken.items() if ref() is owner), None)

    def is_latest(self, owner: object) -> bool:
        """Whether nobody else has had a turn since the owner's last one."""
        return bool(self._taken) and self._taken[next(reversed(self._taken))]() is owner

    def take(self, owner: object, n_tokens: int) -> int:
        """Give the owner a sequence with room for so many tokens, and what it remembered."""
        context = self.context
        sequence = self.sequence_of(owner)
        if sequence is None:
            sequence = self._free()
            self._taken[sequence] = weakref.ref(owner)
        self._taken.move_to_end(sequence)
        self._make_room(sequence, n_tokens)
        state = self._kept.pop(owner, None)
        if state is not None:
            try:
                context.apply_state(state, sequence)
            except StateError as error:  # another LoRA adapter since then, for one
                _log.warning("A conversation's memory is computed again: %s", str(error))
        return sequence

    def copy(self, source: object, target: object, share: bool) -> None:
        """Let another owner remember what one remembers, without computing it.

        Args:
            source: Who remembers.
            target: Who shall.
            share: They may share the memory's cells. Not if one of them will shift: that moves
                the other's positions, too.
        """
        context = self.context
        sequence = self.sequence_of(source)
        if sequence is None:
            kept = self._kept.get(source)
            if kept is not None:
                self._keep(target, kept)
            return
        free = next((s for s in range(self._n_seats) if self._owner(s) is None), None)
        if free is not None and (share or not context.params.kv_unified):
            context.memory.remove(free)
            context.memory.copy(sequence, free)
            self._taken[free] = weakref.ref(target)
            self._taken.move_to_end(sequence)
        else:
            state = self.state_of(source)
            if state is not None:
                self._keep(target, state)

    def keep(self, owner: object, state: State) -> None:
        """Let an owner's next sequence begin with this state."""
        self._give_up(owner)
        self._keep(owner, state)

    def keep_if_usable(self, owner: object, state: State) -> None:
        """As keep; a state that does not belong here is left alone, with a warning in the log."""
        try:
            self.context.check_state(state, 0)
        except (StateError, UnsupportedError) as error:
            _log.warning("A saved conversation's memory is computed again: %s", str(error))
        else:
            self.keep(owner, state)

    def state_of(self, owner: object) -> State | None:
        """What the owner remembers; None if that is nothing, or cannot be had."""
        sequence = self.sequence_of(owner)
        return self._kept.get(owner) if sequence is None else self._captured(sequence)

    def leave(self, owner: object) -> None:
        """Take an owner's sequence and memory away."""
        self.members.discard(owner)
        self._give_up(owner)

    def in_turn(self, compute: Callable[[], _Result]) -> _Result:
        """Compute something with the lock held, when no answer of a `Llama` is on its way."""

        def steps() -> Iterator[tuple[_Result]]:
            with self.lock:
                result = compute()
            yield (result,)

        ((result,),) = steps() if self.turn is None else self.turn.take(steps())
        return result

    # -- helpers ------------------------------------------------------------------------------

    def _give_up(self, owner: object) -> None:
        self._kept.pop(owner, None)
        sequence = self.sequence_of(owner)
        if sequence is not None:
            del self._taken[sequence]
            self._empty(sequence)

    def _empty(self, sequence: int) -> None:
        """Free the cells that nobody needs; a `Llama` may be at work on its own sequence."""
        if self.turn is None and not self.context.closed:
            self.context.memory.remove(sequence)

    def _owner(self, sequence: int) -> Any:
        """Who has a sequence. One that its owner was lost of is free again."""
        ref = self._taken.get(sequence)
        owner = None if ref is None else ref()
        if ref is not None and owner is None:
            del self._taken[sequence]
            self._empty(sequence)
        return owner

    def _free(self) -> int:
        for sequence in range(self._n_seats):
            if self._owner(sequence) is None:
                return sequence
        oldest: int = next(iter(self._taken))
        self._evict(oldest)
        return oldest

    def _evict(self, sequence: int) -> None:
        owner = self._owner(sequence)
        if owner is not None:
            state = self._captured(sequence)
            if state is not None:
                self._keep(owner, state)
        self._taken.pop(sequence, None)
        self.context.memory.remove(sequence)

    def _captured(self, sequence: int) -> State | None:
        context = self.context
        # What an encoder read is not saved with the memory.
        if context.memory.position_max(sequence) < 0 or context.model.has_encoder:
            return None
        return context.capture_state(sequence)

    def _keep(self, owner: object, state: State) -> None:
        self._kept[owner] = state
        # Forks may wait with one and the same state. Those dropped are computed again.
        sizes = {id(kept): kept.native_size for kept in self._kept.values()}
        for other in list(self._kept):
            if sum(sizes.values()) <= KEPT_BYTES_MAX:
                return
            if self._kept[other] is not state:
                sizes.pop(id(self._kept.pop(other)), None)

    def _make_room(self, sequence: int, n_tokens: int) -> None:
        """In a buffer that all share, send the others away until the tokens fit."""
        context = self.context
        if not context.params.kv_unified or context.model.is_recurrent:
            return
        for other in [seq for seq in self._taken if seq != sequence]:
            # Cells that forks share are counted twice: that sends one away too early, no more.
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
