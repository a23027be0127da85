"""The part of a context that runs tokens through the model: checked, cancellable, undone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llamacffi.batch import Batch
from llamacffi.call import check_cancelled, current_call
from llamacffi.errors import (
    CancelledError,
    ClosedError,
    ContextFullError,
    DecodeError,
    EmptyInputError,
    InvalidPositionError,
    ParameterError,
    UnsupportedError,
)
from llamacffi.native.handle import Handle
from llamacffi.native.interruptible import in_main_thread, run_interruptible
from llamacffi.native.library import UNUSABLE, Library
from llamacffi.vocab import check_tokens

if TYPE_CHECKING:
    from llamacffi.memory import Memory
    from llamacffi.model import Model

__all__ = ["Decoding"]

OUTPUTS = {"none": 0, "last": 1, "all": 2}  # LLAMACFFI_OUTPUT_*
NO_SLOT, ABORTED, INVALID_BATCH = 1, 2, -1  # what llama_decode returns
# Below this many tokens, those of a draft among them, a call takes no longer than a few single
# tokens. A worker thread would cost some milliseconds: it upsets where the other threads run.
LONG_TEXT = 256  # tokens before a prompt, from which attention is worth another way
INTERRUPTIBLE_TOKENS = 40


class Decoding:
    """What `Context` inherits its decode methods from; the attributes are the context's."""

    model: Model
    library: Library
    memory: Memory
    n_ctx: int
    n_ctx_seq: int
    n_batch: int
    n_ubatch: int
    n_seq_max: int
    _ffi: Any
    _lib: Any
    _error: Any
    _state: Any
    _handle: Handle
    _pool: Any
    _n_vocab: int
    n_outputs_max: int
    _rows_reserved: int
    _embeddings: bool
    _has_memory: bool

    def cancel(self) -> None:
        """Make the decode that runs in another thread, or else the next one, raise CancelledError.

        Takes effect between two operations of the compute graph on the CPU, and between chunks
        of a long prompt elsewhere. The memory is then as it was before the call.
        """
        self._state.cancel = 1

    def decode_tokens(
        self,
        tokens: Sequence[int],
        *,
        sequence: int = 0,
        position: int | None = None,
        outputs: str = "last",
    ) -> None:
        """Decode tokens of one sequence at consecutive positions (llama_decode).

        Args:
            tokens: Token ids; more than n_batch are decoded in chunks.
            sequence: The sequence id.
            position: Where the first one goes; None for behind what is remembered.
            outputs: Which tokens' logits (or embeddings) are wanted: "none", "last" or "all".

        Raises:
            InvalidTokenError: An id outside the vocabulary.
            InvalidSequenceError: A sequence id outside the context.
            InvalidPositionError: A position that leaves a gap or is taken.
            ContextFullError: No room for the tokens, or more outputs than n_outputs_max.
            CancelledError: `cancel` was called.
            DecodeError: llama.cpp failed; the memory is as before.
            RemoteDeviceError: A server of the model is lost, and the model with it.
            EmptyInputError: No tokens.
        """
        kind = OUTPUTS.get(outputs)
        if kind is None:
            raise ParameterError(f"outputs={outputs!r}: choose one of {', '.join(OUTPUTS)}.")
        tokens = check_tokens(tokens, self._n_vocab)
        count = len(tokens)
        if not count:
            raise EmptyInputError(
                "There are no tokens to decode. An empty prompt needs at least BOS."
            )
        memory = self.memory
        with self._handle.lock:
            end = memory.position_max(sequence) + 1
            start = end if position is None else position
            if start < 0 or (start != end and self._has_memory):
                raise InvalidPositionError(
                    f"Position {start} was asked for, but sequence {sequence} goes on at {end}. "
                    "Remove what is behind, or decode what is missing."
                )
            if start + count > self.n_ctx_seq:
                raise ContextFullError(
                    f"{count} tokens from position {start} on do not fit in the context of "
                    f"{self.n_ctx_seq} tokens. Shorten the prompt, or use a larger n_ctx."
                )
            if self._embeddings:
                kind = OUTPUTS["all"]  # llama.cpp outputs every token then
            if kind == OUTPUTS["all"] or not self._has_memory:
                self._check_whole(count)
            self._reserve_rows(count if kind == OUTPUTS["all"] else 1)
            array = self._ffi.new("llama_token[]", tokens)  # copies at C speed from a list
            if self._pool:
                # A draft is checked by the digits that single tokens have: it asks for all.
                short_tiles = start >= LONG_TEXT and kind != OUTPUTS["all"]
                self._lib.llamacffi_threadpool_set_short_tiles(self._pool, short_tiles)
            try:
                for first in range(0, count, self.n_batch):
                    size = min(self.n_batch, count - first)
                    wanted = kind if first + size == count else OUTPUTS["none"]
                    chunk = (array + first, size, start + first, sequence, wanted)
                    self._run(self._lib.llamacffi_decode_tokens, chunk, size, [(sequence, start)])
            except BaseException:
                self._undo([(sequence, start)])  # the chunks before, too
                raise
            if self._has_memory:
                memory.note_decoded(sequence, start, tokens)

    def decode_token(self, token: int, position: int, sequence: int = 0) -> None:
        """Decode one token whose place is known, the step of a generation; as decode_tokens."""
        if not 0 <= token < self._n_vocab:
            check_tokens((token,), self._n_vocab)
        if not 0 <= sequence < self.n_seq_max:
            self.memory.check_sequence(sequence)
        if position < 0:
            raise InvalidPositionError(f"Position {position} is negative. Count from 0.")
        with self._handle.lock:
            if position >= self.n_ctx_seq:
                raise ContextFullError(
                    f"Position {position} is behind the end of the context of {self.n_ctx_seq} "
                    "tokens. Use a larger n_ctx."
                )
            array = self._ffi.new("llama_token *", token)
            self._run(
                self._lib.llamacffi_decode_tokens,
                (array, 1, position, sequence, OUTPUTS["last"]),
                1,
                [(sequence, position)],
            )
            self.memory.note_decoded(sequence, position, (token,))

    def decode(self, batch: Batch) -> None:
        """Decode a batch, of any sequences and positions (llama_decode).

        Raises: As decode_tokens; ContextFullError also for more rows than n_batch.
        """
        self._process(batch, self._lib.llamacffi_decode)

    def encode(self, batch: Batch | Sequence[int]) -> None:
        """Run the encoder on a batch, or on the tokens of one text (llama_encode).

        Raises:
            UnsupportedError: The model has no encoder.
            ContextFullError: More tokens than n_ubatch.
        """
        if not self.model.has_encoder:
            raise UnsupportedError(f"{self.model} has no encoder. Use decode.")
        if not isinstance(batch, Batch):
            tokens, batch = batch, Batch()
            for position, token in enumerate(tokens):
                batch.add(token, position, output=True)
        self._process(batch, self._lib.llamacffi_encode, whole=True)

    def _process(self, batch: Batch, function: Any, whole: bool = False) -> None:
        count = len(batch)
        if not count:
            raise EmptyInputError("The batch is empty. Add tokens to it.")
        batch.check(self._n_vocab, self.n_seq_max, self.model.n_embd_inp)
        outputs = count if self._embeddings or whole else sum(batch.outputs)
        with self._handle.lock:
            if count > self.n_batch:
                raise ContextFullError(
                    f"The batch has {count} rows; this context takes {self.n_batch}. Split it, or "
                    "use a larger n_batch."
                )
            if max(batch.positions) >= self.n_ctx_seq:
                raise ContextFullError(
                    f"Position {max(batch.positions)} is behind the end of the context of "
                    f"{self.n_ctx_seq} tokens. Use a larger n_ctx."
                )
            if whole or not self._has_memory:
                self._check_whole(count)
            if outputs > self.n_outputs_max:
                self._refuse_outputs(outputs)
            self._reserve_rows(outputs)
            native, keep = batch.to_native(self.library)
            starts: dict[int, int] = {}
            for sequences, position in zip(batch.sequences, batch.positions, strict=True):
                for sequence in sequences:
                    starts[sequence] = min(position, starts.get(sequence, position))
            self._run(function, (native,), count, list(starts.items()))
            del keep
            for row, sequences in enumerate(batch.sequences):
                for sequence in sequences:
                    if batch.tokens and self._has_memory:
                        self.memory.note_decoded(
                            sequence, batch.positions[row], (batch.tokens[row],)
                        )
                    else:
                        self.memory.forget_tokens(sequence)

    def _check_whole(self, count: int) -> None:
        if count > self.n_outputs_max:
            self._refuse_outputs(count)
        if count > self.n_batch:
            raise ContextFullError(
                f"{count} tokens are to be processed at once; this context takes {self.n_batch}. "
                "Use a larger n_batch (and n_ubatch)."
            )
        causal = self._lib.llama_get_causal_attn(self._handle.pointer)
        if not (causal and self._has_memory) and count > self.n_ubatch:
            raise ContextFullError(
                f"{count} tokens need to be computed at once; this context computes "
                f"{self.n_ubatch}. Use a larger n_ubatch."
            )

    def _refuse_outputs(self, count: int) -> None:
        raise ContextFullError(
            f"{count} outputs were asked for; this context keeps {self.n_outputs_max}. Use a "
            "larger n_outputs_max."
        )

    def _reserve_rows(self, rows: int) -> None:
        """Growing moves the output buffer away from under the arrays that show it."""
        if rows <= self._rows_reserved:
            return
        if self._handle.pinned:
            raise DecodeError(
                f"{rows} rows of outputs need a larger buffer than the {self._rows_reserved} there "
                "are, and arrays over the old one are still in use. Copy what you need of them "
                "and delete them first."
            )
        self._rows_reserved = rows

    def _run(
        self, function: Any, arguments: tuple[Any, ...], count: int, starts: list[tuple[int, int]]
    ) -> None:
        """Make one native call, and undo it in the memory where it fails half-way.

        Args:
            function: Takes the context, the arguments and an error struct.
            arguments: The ones in between.
            count: How many tokens it processes.
            starts: (sequence, position) pairs: what to remove from on failure.
        """
        pointer, error = self._handle.pointer, self._error
        if self._state.cancel:
            self._raise_cancelled()
        call = current_call()
        if call is not None:
            with call.interrupting(self.cancel, self._forget_cancel):
                code = function(pointer, *arguments, error)
        elif (count >= INTERRUPTIBLE_TOKENS or self.model.is_remote) and in_main_thread():
            try:
                code = run_interruptible(
                    lambda: int(function(pointer, *arguments, error)), self.cancel
                )
            except BaseException:
                self._state.cancel = 0
                self.library.give_up(error, self._handle)  # it may not have stopped by itself
                self._undo(starts)
                raise
        else:
            code = function(pointer, *arguments, error)
        if self.library.log.pending:
            self.library.log.drain()
        if code == 0:
            return
        if error.kind:
            if error.kind not in UNUSABLE:
                self._undo(starts)
            self.library.fail(error, "Decoding", self._handle)
        if code != INVALID_BATCH:
            self._undo(starts)
        message = self.library.message(error)
        if code == ABORTED:
            self._raise_cancelled()
        if code == NO_SLOT:
            raise ContextFullError(
                f"There is no room in the memory for {count} more tokens of {self.n_ctx}. Remove "
                "sequences or tokens, or use a larger n_ctx."
            )
        if code == INVALID_BATCH:
            raise InvalidPositionError(
                f"llama.cpp refused the batch: {message}. Positions of a sequence must follow on "
                "what is remembered."
            )
        raise DecodeError(f"Decoding failed with code {code}: {message}. The memory is as before.")

    def _raise_cancelled(self) -> None:
        if self._handle.closed:
            raise ClosedError("This context was closed while it decoded.")
        self._state.cancel = 0
        check_cancelled()  # whoever cancelled the call has said why
        raise CancelledError("The decode was cancelled. The memory is as before the call.")

    def _forget_cancel(self) -> None:
        """Take back what was meant for a decode that is over, and would hit the next one."""
        if not self._handle.closed:
            self._state.cancel = 0

    def _undo(self, starts: list[tuple[int, int]]) -> None:
        if self._handle.closed or self._handle.broken or not self._has_memory:
            return
        for sequence, start in starts:
            if not self.memory.remove(sequence, start):
                self.memory.remove(sequence)  # a state that cannot go back
