"""A batch: tokens (or embeddings) with positions, sequences and output flags, for one decode."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llamacffi.errors import InvalidPositionError, InvalidSequenceError, ParameterError
from llamacffi.vocab import check_tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llamacffi.native.library import Library

__all__ = ["Batch"]

MAX_POSITION = 2**31 - 1


class Batch:
    """What one call of `Context.decode` processes (llama_batch).

    Rows are added with `add` (tokens) or `add_embedding` (vectors); not both in one batch. A
    batch can hold rows of many sequences, and a row can belong to several.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.embeddings: list[NDArray[np.float32]] = []
        self.positions: list[int] = []
        self.sequences: list[tuple[int, ...]] = []
        self.outputs: list[bool] = []

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        return f"Batch({len(self)} rows, {sum(self.outputs)} outputs)"

    def add(
        self, token: int, position: int, sequences: Sequence[int] = (0,), output: bool = False
    ) -> int:
        """Add a token.

        Args:
            token: Its id.
            position: Its place in the sequence, from 0.
            sequences: The sequence ids that it belongs to.
            output: Whether its logits (or embedding) are wanted.

        Returns:
            The row's index, to read the output with.
        """
        if self.embeddings:
            raise ParameterError("This batch holds embeddings; put tokens into another one.")
        self.tokens.append(operator.index(token))
        return self._add_row(position, sequences, output)

    def add_embedding(
        self,
        embedding: NDArray[np.float32],
        position: int,
        sequences: Sequence[int] = (0,),
        output: bool = False,
    ) -> int:
        """Add an input vector, float32 of shape (n_embd_inp,), in place of a token."""
        import numpy as np

        if self.tokens:
            raise ParameterError("This batch holds tokens; put embeddings into another one.")
        self.embeddings.append(np.ascontiguousarray(embedding, dtype=np.float32).reshape(-1))
        return self._add_row(position, sequences, output)

    def _add_row(self, position: int, sequences: Sequence[int], output: bool) -> int:
        self.positions.append(operator.index(position))
        self.sequences.append(tuple(map(operator.index, sequences)))
        self.outputs.append(bool(output))
        return len(self.positions) - 1

    def clear(self) -> None:
        """Remove all rows."""
        for rows in (self.tokens, self.embeddings, self.positions, self.sequences, self.outputs):
            rows.clear()

    def check(self, n_vocab: int, n_seq_max: int, n_embd: int) -> None:
        """Refuse what llama.cpp would crash on.

        Raises:
            InvalidTokenError: A token id outside the vocabulary.
            InvalidSequenceError: A sequence id outside the context, or none.
            InvalidPositionError: A negative position, one too large, or one given twice.
            ParameterError: An embedding of the wrong width.
        """
        check_tokens(self.tokens, n_vocab)
        for index, vector in enumerate(self.embeddings):
            if vector.shape != (n_embd,):
                raise ParameterError(
                    f"Embedding {index} has {vector.size} numbers; the model takes {n_embd}."
                )
        for index, sequences in enumerate(self.sequences):
            if not sequences or len(set(sequences)) != len(sequences):
                raise InvalidSequenceError(f"Row {index} needs one or more different sequence ids.")
            if min(sequences) < 0 or max(sequences) >= n_seq_max:
                raise InvalidSequenceError(
                    f"Row {index} has the sequence ids {list(sequences)}; this context has 0 to "
                    f"{n_seq_max - 1}. Create it with a larger n_seq_max."
                )
        taken: set[tuple[int, int]] = set()
        for index, position in enumerate(self.positions):
            if not 0 <= position < MAX_POSITION:
                raise InvalidPositionError(
                    f"Row {index} has the position {position}: it must be 0 or more."
                )
            places = {(sequence, position) for sequence in self.sequences[index]}
            if places & taken:
                raise InvalidPositionError(
                    f"Row {index} has the position {position}, which an earlier row of the same "
                    "sequence has."
                )
            taken |= places

    def to_native(self, library: Library) -> tuple[Any, list[Any]]:
        """Build the struct; returns it with the arrays that it points to."""
        ffi = library.ffi
        count = len(self)
        ids = [ffi.new("llama_seq_id[]", sequences) for sequences in self.sequences]
        keep: list[Any] = [
            ids,
            ffi.new("llama_pos[]", self.positions),
            ffi.new("int32_t[]", [len(sequences) for sequences in self.sequences]),
            ffi.new("llama_seq_id *[]", ids),
            ffi.new("int8_t[]", [int(output) for output in self.outputs]),
        ]
        token: Any = ffi.NULL
        embd: Any = ffi.NULL
        if self.embeddings:
            import numpy as np

            joined = np.concatenate(self.embeddings)
            embd = ffi.from_buffer("float[]", joined)
            keep.append(joined)
        else:
            token = ffi.new("llama_token[]", self.tokens)
        keep += [token, embd]
        native = ffi.new("struct llama_batch *")
        native.n_tokens, native.token, native.embd = count, token, embd
        native.pos, native.n_seq_id, native.seq_id, native.logits = keep[1:5]
        return native, keep
