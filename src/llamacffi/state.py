"""Saving what a context remembers, and bringing it back: the part of `Context` that does it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamacffi.errors import StateError, UnsupportedError
from llamacffi.native.handle import Handle
from llamacffi.native.library import Library
from llamacffi.state_format import Remembered, State, decode, read_head, write_atomically

if TYPE_CHECKING:
    from llamacffi.adapter import Adapter
    from llamacffi.context_params import ContextParams
    from llamacffi.memory import Memory
    from llamacffi.model import Model

__all__ = ["States"]

EVERY = -1  # llamacffi_state_*: all sequences
_NAMES = {
    "llama_cpp": "llama.cpp commit",
    "model": "model",
    "adapters": "LoRA adapters",
    "type_k": "type_k",
    "type_v": "type_v",
    "flash_attention": "flash attention",
    "causal_attention": "causal attention",
    "n_stream": "separate buffers for sequences (n_seq_max, or 1 with kv_unified=True)",
    "swa_full": "swa_full",
    "long_rope": "LongRoPE's table for an n_ctx beyond the model's training",
}


class States:
    """What `Context` inherits its save and load methods from; the attributes are the context's."""

    model: Model
    library: Library
    memory: Memory
    params: ContextParams
    adapters: tuple[tuple[Adapter, float], ...]
    n_ctx: int
    n_ctx_seq: int
    n_seq_max: int
    _ffi: Any
    _lib: Any
    _error: Any
    _state: Any
    _handle: Handle
    _n_vocab: int
    _has_memory: bool

    # -- the public door ----------------------------------------------------------------------

    def save_state(self, sequence: int | None = None) -> bytes:
        """Save what is remembered (llama_state_get_data, llama_state_seq_get_data).

        Logits and embeddings are not part of it: after loading, decode at least one token before
        you ask for some.

        Args:
            sequence: One sequence, which can be loaded into another one; None for all of them.

        Returns:
            Bytes for `load_state`: some hundred, the tokens, and what the memory takes for these
            tokens. They tell everything about the text.

        Raises:
            InvalidSequenceError: No such sequence.
            UnsupportedError: The model has no memory.
            NativeError: llama.cpp could not write it.
        """
        return b"".join(self.capture_state(sequence).pieces())

    def load_state(self, data: Any, sequence: int | None = None) -> None:
        """Remember what was saved, in place of what is remembered (llama_state_set_data).

        Args:
            data: What `save_state` returned, or anything else with the buffer protocol.
            sequence: Where to load a saved sequence; None for the one it was saved from. A whole
                context replaces all sequences.

        Raises:
            StateError: The bytes are damaged, belong to another model, other parameters or
                another llama.cpp, or do not fit; nothing has changed then. Or llama.cpp refused
                its part: the sequence, of a whole context every sequence, is empty then. The
                message says which.
            InvalidSequenceError: No such sequence.
            UnsupportedError: The model has no memory.
        """
        self.apply_state(decode(data), sequence)

    def save_state_file(self, path: str | os.PathLike[str], sequence: int | None = None) -> None:
        """As save_state, to a file with mode 0600; what was in it before stays until the end.

        Raises:
            OSError: The file could not be written; a previous one is as it was.
        """
        write_atomically(Path(path), self.capture_state(sequence).pieces())

    def load_state_file(self, path: str | os.PathLike[str], sequence: int | None = None) -> None:
        """As load_state, from a file.

        Raises:
            OSError: The file could not be read.
        """
        with Path(path).open("rb") as file:
            # Before anything large is read.
            self.check_state(read_head(file), sequence)
            file.seek(0)
            data = file.read()
        self.apply_state(decode(data), sequence)

    # -- states taken apart, for caches ---------------------------------------------------------

    def capture_state(self, sequence: int | None = None) -> State:
        """As save_state, without putting the parts into one piece."""
        if sequence is not None:
            self.memory.check_sequence(sequence)
        self._check_memory()
        whole = sequence is None
        number = EVERY if sequence is None else sequence
        with self._handle.lock:
            pointer = self._handle.pointer
            size = self._lib.llamacffi_state_size(pointer, number, self._error)
            self.library.check(self._error, "Measuring the state", self._handle)
            allocate = self._ffi.new_allocator(should_clear_after_alloc=False)
            buffer = allocate("uint8_t[]", size)
            written = self._waiting(
                lambda: self._lib.llamacffi_state_get(pointer, number, buffer, size, self._error)
            )
            if self._error.kind or not written or written != size:
                self.library.fail(self._error, "Saving the state", self._handle)
            kept = range(self.n_seq_max) if sequence is None else (sequence,)
            remembered = [self._remembered(item) for item in kept]
            if whole:
                remembered = [item for item in remembered if item.position_max >= 0]
            return State(
                self.state_conditions(whole),
                {"model": self.model.path.name, "n_ctx": self.n_ctx},
                whole,
                tuple(remembered),
                memoryview(self._ffi.buffer(buffer)),
                size,
            )

    def apply_state(self, state: State, sequence: int | None = None) -> None:
        """As load_state, with a state that was taken apart."""
        with self._handle.lock:
            target = self.check_state(state, sequence)
            pointer, memory = self._handle.pointer, self.memory
            data = self._ffi.from_buffer("uint8_t[]", state.native)
            memory.forget_tokens(None if target == EVERY else target)
            done = self._waiting(
                lambda: self._lib.llamacffi_state_set(pointer, target, data, len(data), self._error)
            )
            self.library.log.drain()
            self.library.check_servers(self._error, "Loading the state", self._handle)
            emptied = "All sequences are" if target == EVERY else f"Sequence {target} is"
            if not done:
                raise StateError(
                    f"llama.cpp refused the state: {self.library.message(self._error)}. {emptied} "
                    "empty now: decode the prompt again."
                )
            for item in state.sequences:
                place = item.sequence if target == EVERY else target
                there = (memory.position_min(place), memory.position_max(place))
                # What a sliding window has moved past is not saved with a sequence.
                if there[1] != item.position_max or there[0] < item.position_min:
                    memory.remove(EVERY if target == EVERY else target)
                    raise StateError(
                        f"The state is damaged: sequence {item.sequence} should go from position "
                        f"{item.position_min} to {item.position_max}, and goes from {there[0]} to "
                        f"{there[1]}. {emptied} empty now: decode the prompt again."
                    )
                memory.note_decoded(place, 0, item.tokens.tolist())

    def _waiting(self, call: Callable[[], Any]) -> Any:
        """Make a call that may wait for another machine."""

        def cancel() -> None:
            self._state.cancel = 1

        try:
            return self.model.waiting(call, cancel)
        except BaseException:
            self._state.cancel = 0  # it was meant for this call alone
            raise

    def check_state(self, state: State, sequence: int | None = None) -> int:
        """Refuse a state that cannot be loaded here.

        Returns:
            The sequence that it goes to, or -1 for all.

        Raises: As load_state.
        """
        self._check_memory()
        if state.whole and sequence is not None:
            raise StateError(
                f"The state holds a whole context, and cannot go into sequence {sequence}. Load it "
                "with sequence=None, or save the sequence alone."
            )
        target = sequence
        if not state.whole:
            target = state.sequences[0].sequence if sequence is None else sequence
            self.memory.check_sequence(target)
        self._compare(state)
        for item in state.sequences:
            self._check_fits(item, state.whole)
        if state.whole and self.params.kv_unified and state.about.get("n_ctx") != self.n_ctx:
            total = sum(item.position_max + 1 for item in state.sequences)
            if total > self.n_ctx:
                raise StateError(
                    f"The state's sequences take up to {total} tokens together; this context holds "
                    f"{self.n_ctx}. Use a larger n_ctx."
                )
        return EVERY if target is None else target

    def state_conditions(self, whole: bool = False) -> dict[str, Any]:
        """What must be the same for a state of this context to be of use, by name."""
        facts = self._ffi.new("struct llamacffi_context_facts *")
        with self._handle.lock:
            self._lib.llamacffi_context_facts_get(self._handle.pointer, facts, self._error)
            self.library.check(self._error, "Reading the parameters", self._handle)
        conditions: dict[str, Any] = {
            "llama_cpp": self.library.commit,
            "model": self.model.fingerprint,
            "adapters": [[adapter.fingerprint, scale] for adapter, scale in self.adapters],
            "type_k": self.params.type_k,
            "type_v": self.params.type_v,
            "flash_attention": bool(facts.flash_attention),
            "causal_attention": bool(facts.causal_attention),
            "n_stream": facts.n_stream,
            "rope_scaling_type": facts.rope_scaling_type,
            "long_rope": bool(facts.long_rope),
        }
        conditions |= {
            name: getattr(facts, name)
            for name in ("n_ctx_orig_yarn", "rope_freq_base", "rope_freq_scale", "yarn_ext_factor",
                         "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")
        }  # fmt: skip
        if whole and self.model.n_swa:
            conditions["swa_full"] = self.params.swa_full
        return conditions

    # -- helpers --------------------------------------------------------------------------------

    def _check_memory(self) -> None:
        if not self._has_memory:
            raise UnsupportedError(f"{self.model} has no memory that could be saved or loaded.")
        if self.model.has_encoder:
            raise UnsupportedError(
                f"{self.model} has an encoder, whose output llama.cpp does not save with the "
                "memory. Encode the text again."
            )

    def _remembered(self, sequence: int) -> Remembered:
        import numpy as np

        memory = self.memory
        low, high = memory.position_min(sequence), memory.position_max(sequence)
        tokens = np.array(memory.tokens(sequence)[: high + 1], "<i4")
        return Remembered(sequence, low, high, tokens)

    def _compare(self, state: State) -> None:
        here = self.state_conditions(state.whole)
        names = list({**here, **state.conditions})
        differing = [name for name in names if state.conditions.get(name) != here.get(name)]
        if not differing:
            return
        lines = []
        for name in differing:
            saved, found = state.conditions.get(name), here.get(name)
            if name == "model":
                saved = f"{str(state.about.get('model'))!r:.80} ({saved!s:.8})"
                found = f"{self.model.path.name!r} ({found:.8})"
            lines.append(f"{_NAMES.get(name, str(name)[:80])}: saved {saved!s:.80}, here {found}")
        raise StateError(
            f"The state does not belong here. {'; '.join(lines[:10])}. Load it with what it was "
            "saved with, or decode the prompt again. Nothing has changed."
        )

    def _check_fits(self, item: Remembered, whole: bool) -> None:
        if whole and item.sequence >= self.n_seq_max:
            raise StateError(
                f"The state has a sequence {item.sequence}; this context has 0 to "
                f"{self.n_seq_max - 1}. Use a larger n_seq_max."
            )
        if item.position_max >= self.n_ctx_seq:
            raise StateError(
                f"The state goes up to position {item.position_max}; this context holds "
                f"{self.n_ctx_seq} tokens. Use a larger n_ctx."
            )
        tokens = item.tokens
        if len(tokens) and not (tokens.min() >= 0 and tokens.max() < self._n_vocab):
            raise StateError("The state is damaged: it has tokens outside the vocabulary.")
