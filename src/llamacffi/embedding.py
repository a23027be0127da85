"""Texts to vectors: which are computed together, and how; a context driven pack by pack.

Whoever owns the context decides when a pack is computed, and can compute other things in between.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacffi.batch import Batch
from llamacffi.context import Context
from llamacffi.errors import ContextFullError, EmptyInputError, ParameterError
from llamacffi.vocab import check_tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TRUNCATION", "Embedder", "Pack", "Text", "Truncate"]

log = logging.getLogger("llamacffi.embedding")

Text = str | bytes | Sequence[int]
Truncate = bool | str

TRUNCATION = (True, False, "start", "end")
# Attention costs each token as much as there are tokens in its pack, of other texts too: small
# packs compute less of what is thrown away, large ones read the weights less often. Without flash
# attention 64 would be faster.
PACK_TOKENS = 256


@dataclass(frozen=True)
class Pack:
    """Texts that are computed in one go.

    Attributes:
        indexes: Their places among all texts.
        texts: Their tokens.
    """

    indexes: tuple[int, ...]
    texts: tuple[list[int], ...]

    @property
    def n_tokens(self) -> int:
        """Tokens of all of them."""
        return sum(map(len, self.texts))


class Embedder:
    """Embeds texts in a context: `run` all at once, or `compute` the `packs` one by one.

    Pooling is the context's: each text gives a vector, or with "none" a row for each token. What
    the memory holds of other sequences stays there, unless it has no room left for a pack; then it
    is forgotten, after the context's prompt cache was told.

    Args:
        context: It must keep enough outputs: made with embeddings=True, or n_outputs_max=n_batch.
        pack_tokens: Most tokens of a pack of several texts; None for what is fast.

    Attributes:
        longest: Tokens that the longest text may have.
    """

    def __init__(self, context: Context, pack_tokens: int | None = None) -> None:
        self.context = context
        self._remembers = context._has_memory and not context.model.has_encoder
        self._at_once = min(context.n_batch, context.n_outputs_max)
        together = min(self._at_once, context.n_ubatch)
        # The last token's vector is right however the text is cut; the others need all of it.
        can_be_cut = context.causal and context.pooling in ("none", "last", "rank")
        whole = not (self._remembers and can_be_cut)
        self.longest = min(context.n_ctx_seq, together) if whole else context.n_ctx_seq
        wanted = pack_tokens or (context.n_ubatch if self._remembers else PACK_TOKENS)
        self._pack_tokens = min(together, max(1, wanted))
        self._n_sequences = context.n_seq_max
        if self._remembers and whole and not context.params.kv_unified:
            self._n_sequences = 1  # llama.cpp cuts sequences with buffers of their own
        elif self._remembers and context.n_seq_max > 1:
            self._n_sequences -= 1  # one may hold a prompt

    # -- texts to tokens ----------------------------------------------------------------------

    def tokenize(self, texts: Iterable[Text], truncate: Truncate = False) -> list[list[int]]:
        """Turn texts into tokens that fit.

        Args:
            texts: Strings, bytes in UTF-8, or lists of token ids.
            truncate: What to do with a text that is too long: False to refuse it, True or "end" to
                cut its end off, "start" its beginning. A first BOS and a last EOS or SEP stay.

        Raises:
            ContextFullError: A text is too long; the message names its index and length.
            EmptyInputError: A text is empty.
            InvalidTokenError: A token id outside the vocabulary.
            ParameterError: An unknown way to truncate, or a text that is not Unicode.
            TypeError: Something that is no text.
        """
        if truncate not in TRUNCATION:
            raise ParameterError(f"truncate={truncate!r}: choose True, False, 'start' or 'end'.")
        found = [self._tokens(index, text) for index, text in enumerate(texts)]
        too_long = [index for index, tokens in enumerate(found) if len(tokens) > self.longest]
        if too_long and truncate is False:
            index = too_long[0]
            raise ContextFullError(
                f"Text {index} has {len(found[index])} tokens; this context embeds "
                f"{self.longest} at once. Split it, use truncate=True, or make the context with "
                "a larger n_ctx, n_batch and n_ubatch."
            )
        for index in too_long:
            found[index] = self._cut(found[index], from_start=truncate == "start")
        if too_long:
            log.warning(
                "%d of %d texts were cut to %d tokens.", len(too_long), len(found), self.longest
            )
        return found

    def _tokens(self, index: int, text: Text) -> list[int]:
        vocab = self.context.model.vocab
        if not len(text):
            raise EmptyInputError(f"Text {index} is empty. Leave it out, or give it some content.")
        if not isinstance(text, str | bytes):
            return check_tokens(text, vocab.n_tokens)
        try:
            tokens = vocab.tokenize(text)
        except UnicodeEncodeError as error:
            raise ParameterError(
                f"Text {index} is not Unicode: {error.reason} at {error.start}. Decode it rightly."
            ) from None
        if not tokens:
            raise EmptyInputError(f"Text {index} has no tokens. Leave it out.")
        return tokens

    def _cut(self, tokens: list[int], from_start: bool) -> list[int]:
        vocab = self.context.model.vocab
        head = tokens[:1] if tokens[0] == vocab.bos else []
        tail = tokens[-1:] if tokens[-1] in (vocab.eos, vocab.sep) else []
        room = self.longest - len(head) - len(tail)
        if room < 1:
            return tokens[: self.longest]
        inner = tokens[len(head) : len(tokens) - len(tail)]
        return head + (inner[-room:] if from_start else inner[:room]) + tail

    # -- tokens to vectors --------------------------------------------------------------------

    def packs(self, texts: Sequence[list[int]]) -> Iterator[Pack]:
        """Put texts of similar length together, the longest first."""
        waiting: list[int] = []
        room = 0
        for index in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
            size = len(texts[index])
            if waiting and (size > room or len(waiting) == self._n_sequences):
                yield self._packed(waiting, texts)
                waiting = []
            if not waiting:
                room = self._pack_tokens
            waiting.append(index)
            room -= size
        if waiting:
            yield self._packed(waiting, texts)

    def _packed(self, indexes: list[int], texts: Sequence[list[int]]) -> Pack:
        return Pack(tuple(indexes), tuple(texts[index] for index in indexes))

    def compute(self, pack: Pack) -> list[NDArray[np.float32]]:
        """Compute a pack (llama_decode, llama_encode).

        Returns:
            For each of its texts, in the pack's order: float32 of shape (n_embd_out,); (n_cls_out,)
            with pooling "rank"; (number of tokens, n_embd_out) with "none".

        Raises:
            CancelledError: The context was cancelled.
            DecodeError: llama.cpp failed.
        """
        context = self.context
        with context.computing_embeddings():
            sequences = self._sequences(pack)
            try:
                return self._vectors(pack, sequences)
            finally:
                if self._remembers and not context.closed:
                    for sequence in sequences:
                        context.memory.remove(sequence)

    def run(self, texts: Sequence[list[int]]) -> list[NDArray[np.float32]]:
        """Compute all texts; returns what `compute` does, in the order of the texts."""
        found: dict[int, NDArray[np.float32]] = {}
        for pack in self.packs(texts):
            found.update(zip(pack.indexes, self.compute(pack), strict=True))
        return [found[index] for index in range(len(texts))]

    def _vectors(self, pack: Pack, sequences: Sequence[int]) -> list[NDArray[np.float32]]:
        import numpy as np

        context = self.context
        rows = [
            (token, position, sequence)
            for sequence, tokens in zip(sequences, pack.texts, strict=True)
            for position, token in enumerate(tokens)
        ]
        by_token: list[NDArray[np.float32]] = []
        for first in range(0, len(rows), self._at_once):
            batch = Batch()
            for token, position, sequence in rows[first : first + self._at_once]:
                batch.add(token, position, (sequence,), output=True)
            if context.model.has_encoder:
                context.encode(batch)
            else:
                context.decode(batch)
            if context.pooling == "none":
                by_token += [context.embeddings(row).copy() for row in range(len(batch))]
        if context.pooling != "none":
            return [context.pooled_embedding(sequence) for sequence in sequences]
        ends = np.cumsum([len(tokens) for tokens in pack.texts])
        return np.split(np.stack(by_token), ends[:-1])

    def _sequences(self, pack: Pack) -> list[int]:
        """Sequences for the texts that hold nothing, and have room."""
        context, memory = self.context, self.context.memory
        count = len(pack.texts)
        if not self._remembers:
            return list(range(count))
        used = {s: memory.position_max(s) + 1 for s in range(context.n_seq_max)}
        free = [sequence for sequence, length in used.items() if not length]
        full = context.params.kv_unified and sum(used.values()) + pack.n_tokens > context.n_ctx
        if len(free) >= count and not full:
            return free[-count:]  # prompts take the first ones
        if context.prompt_cache is not None:
            for sequence in set(used) - set(free):
                context.prompt_cache.remember(context, sequence)
        memory.clear()
        return list(range(context.n_seq_max))[-count:]
