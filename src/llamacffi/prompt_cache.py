"""Prompt caches: states of sequences kept for prompts to come, found by their longest prefix.

Given to a context (`context.prompt_cache = cache`) or a `Llama`, a cache is asked before a prompt
is computed, and told before a text is forgotten. One cache can serve several contexts, also of
several models: an entry is of use only where the conditions of its state hold.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamacffi.errors import LlamaCffiError, ParameterError, StateError
from llamacffi.state_format import State

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llamacffi.context import Context

__all__ = ["BasePromptCache", "Entry", "PromptCache", "usable_length"]

log = logging.getLogger(__name__)
WORTHWHILE_TOKENS = 64  # restoring fewer costs about as much as computing them
DEFAULT_BYTES = 1 << 30


@dataclass(frozen=True)
class Entry:
    """One kept state, without its bytes.

    Attributes:
        key: Tells the conditions of its state from others.
        tokens: int32, all tokens of the sequence.
        position_min: The smallest position in it.
        name: What the cache finds it by.
        size: Bytes that it takes.
    """

    key: str
    tokens: NDArray[np.int32]
    position_min: int
    name: str
    size: int


class BasePromptCache(ABC):
    """What all prompt caches share; those that are used are `PromptCache` and `DiskPromptCache`.

    Args:
        capacity_bytes: Most bytes of all entries together; the least recently used go first.
        eager: Also keep a prompt right after it was computed, if that was long, so that other
            contexts find it.

    Raises:
        ParameterError: The capacity is not positive.
    """

    def __init__(self, capacity_bytes: int, eager: bool) -> None:
        if capacity_bytes < 1:
            raise ParameterError(f"capacity_bytes={capacity_bytes}: choose 1 or more.")
        self.capacity_bytes = capacity_bytes
        self.eager = eager

    # -- the public door ----------------------------------------------------------------------

    def restore(self, context: Context, tokens: Sequence[int], sequence: int = 0) -> int:
        """Bring back the entry that shares the longest prefix with a prompt, if it is worthwhile.

        What the sequence remembers is kept first, if it would be lost.

        Args:
            context: Where the prompt is to be computed.
            tokens: The prompt.
            sequence: The sequence that it will be computed in.

        Returns:
            How many of the first tokens the sequence remembers now.
        """
        import numpy as np

        memory = context.memory
        wanted = np.array(tokens, np.int32)
        held = reusable(context, tokens, sequence)
        key = _key(context)
        least = held + WORTHWHILE_TOKENS
        candidates = [
            (length, entry)
            for entry in self.entries(key)
            if least <= len(entry.tokens) <= context.n_ctx_seq
            and (length := usable_length(context, entry, common(entry.tokens, wanted), len(wanted)))
            >= least
        ]
        # The longest; of several the smallest, which takes the least time.
        for length, entry in sorted(candidates, key=lambda item: (-item[0], item[1].size)):
            state = self.load(entry)
            if state is None:
                continue
            if len(memory.tokens(sequence)) - held >= WORTHWHILE_TOKENS:
                self.remember(context, sequence)
            try:
                context.apply_state(state, sequence)
            except StateError as error:
                log.warning("An entry of the prompt cache is of no use: %s", error)
                if context.n_seq_max == 1:  # else other sequences may have left too little room
                    self.discard(entry)
                held = reusable(context, tokens, sequence)
                continue
            if length < len(entry.tokens) and not memory.remove(sequence, length):
                memory.remove(sequence)
            break
        return memory.common_prefix(tokens, sequence)

    def remember(self, context: Context, sequence: int = 0) -> None:
        """Keep what a sequence remembers; nothing happens if the tokens are not known."""
        known = context.memory.tokens(sequence)
        if not known or len(known) != context.memory.position_max(sequence) + 1:
            return
        import numpy as np

        tokens = np.array(known, np.int32)
        key = _key(context)
        shorter = []
        for entry in self.entries(key):
            shared = common(entry.tokens, tokens)
            if shared == len(tokens) and _can_be_cut(context, entry, shared):
                self.touch(entry)  # it is in there
                return
            if shared == len(entry.tokens):
                shorter.append(entry)
        try:
            state = context.capture_state(sequence)
        except LlamaCffiError as error:
            log.warning("A prompt could not be kept: %s", error)
            return
        kept = self.store(key, state)
        if kept is None:
            return
        for entry in shorter:
            if _can_be_cut(context, kept, len(entry.tokens)):
                self.discard(entry)

    # -- what a kind of cache has to say ----------------------------------------------------------

    @abstractmethod
    def entries(self, key: str) -> Iterable[Entry]:
        """The entries with a key."""

    @abstractmethod
    def load(self, entry: Entry) -> State | None:
        """An entry's state, used now; None if it is gone."""

    @abstractmethod
    def store(self, key: str, state: State) -> Entry | None:
        """Keep a state, and drop what does not fit any more; None if it was not kept."""

    @abstractmethod
    def touch(self, entry: Entry) -> None:
        """Take note that an entry was of use."""

    @abstractmethod
    def discard(self, entry: Entry) -> None:
        """Drop an entry, if it is there."""

    @abstractmethod
    def clear(self) -> None:
        """Drop all entries."""


class PromptCache(BasePromptCache):
    """States kept in memory, for as long as the cache lives. Threads may share it.

    Args:
        capacity_bytes: Most bytes of all entries together; the least recently used go first.
        eager: Also keep a prompt right after it was computed, if that was long, and not only
            before it is forgotten: for several contexts with one cache.

    Raises:
        ParameterError: The capacity is not positive.
    """

    def __init__(self, capacity_bytes: int = DEFAULT_BYTES, *, eager: bool = False) -> None:
        super().__init__(capacity_bytes, eager)
        self._states: OrderedDict[str, tuple[Entry, State]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._states)

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        with self._lock:
            return self._size()

    def _size(self) -> int:
        return sum(entry.size for entry, _ in self._states.values())

    def entries(self, key: str) -> list[Entry]:
        """The entries with a key."""
        with self._lock:
            return [entry for entry, _ in self._states.values() if entry.key == key]

    def load(self, entry: Entry) -> State | None:
        """An entry's state, used now; None if it is gone."""
        with self._lock:
            if entry.name not in self._states:
                return None
            self._states.move_to_end(entry.name)
            return self._states[entry.name][1]

    def store(self, key: str, state: State) -> Entry | None:
        """Keep a state, and drop what does not fit any more; None if it is too large."""
        entry = entry_of(key, state)
        if entry.size > self.capacity_bytes:
            log.info("A prompt of %d bytes is too large for the cache.", entry.size)
            return None
        with self._lock:
            self._states[entry.name] = entry, state
            self._states.move_to_end(entry.name)
            while self._size() > self.capacity_bytes:
                self._states.popitem(last=False)
        return entry

    def touch(self, entry: Entry) -> None:
        """Take note that an entry was of use."""
        with self._lock:
            if entry.name in self._states:
                self._states.move_to_end(entry.name)

    def discard(self, entry: Entry) -> None:
        """Drop an entry, if it is there."""
        with self._lock:
            self._states.pop(entry.name, None)

    def clear(self) -> None:
        """Drop all entries."""
        with self._lock:
            self._states.clear()

    def __repr__(self) -> str:
        return f"PromptCache({len(self)} entries, {self.size} of {self.capacity_bytes} bytes)"


# -- prefixes -----------------------------------------------------------------------------------


def entry_of(key: str, state: State, size: int | None = None) -> Entry:
    """What a cache knows of a state of one sequence."""
    (item,) = state.sequences
    digest = hashlib.blake2b(item.tokens.tobytes(), digest_size=16).hexdigest()
    total = state.native_size + item.tokens.nbytes if size is None else size
    return Entry(key, item.tokens, item.position_min, f"{key}-{digest}", total)


def key_of(conditions: dict[str, Any]) -> str:
    """16 hexadecimal digits that stand for the conditions of a state."""
    text = json.dumps(conditions, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _key(context: Context) -> str:
    return key_of(context.state_conditions())


def common(first: NDArray[np.int32], second: NDArray[np.int32]) -> int:
    """Length of the common prefix."""
    import numpy as np

    count = min(len(first), len(second))
    differing = np.flatnonzero(first[:count] != second[:count])
    return int(differing[0]) if len(differing) else count


def _can_be_cut(context: Context, entry: Entry, length: int) -> bool:
    """Whether the first tokens of an entry can be had without the rest."""
    if length == len(entry.tokens):
        return True
    return _cuttable(context, entry.position_min, len(entry.tokens) - 1, length)


def _cuttable(context: Context, position_min: int, position_max: int, length: int) -> bool:
    model = context.model
    if model.is_recurrent or model.is_hybrid:
        return False  # a state cannot go back
    if model.n_swa:
        # What the window has moved past is not saved with a sequence.
        position_min = max(position_min, position_max + 1 - model.n_swa)
        return position_min <= max(0, length - model.n_swa)
    return position_min == 0


def usable_length(context: Context, entry: Entry, shared: int, wanted: int) -> int:
    """How many tokens of a prompt an entry saves, if it shares so many with it.

    The prompt's last token is computed in any case: its logits are needed.
    """
    length = min(shared, wanted - 1)
    return length if length > 0 and _can_be_cut(context, entry, length) else 0


def reusable(context: Context, wanted: Sequence[int], sequence: int) -> int:
    """How many tokens of a prompt the sequence itself saves."""
    memory = context.memory
    length = min(memory.common_prefix(wanted, sequence), len(wanted) - 1)
    high = memory.position_max(sequence)
    if length == high + 1:
        return length
    model = context.model
    if model.n_swa and not (model.is_recurrent or model.is_hybrid):
        return length if memory.position_min(sequence) <= max(0, length - model.n_swa) else 0
    return length if _cuttable(context, memory.position_min(sequence), high, length) else 0
