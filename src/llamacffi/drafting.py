"""Drafters for speculative decoding: callables that propose the tokens that may come next.

A drafter gets the tokens so far, an int32 array, and returns token ids, many or none. All of them
are checked in one decode, which on most machines costs little more than one token's; so a drafter
pays where it is often right, and should propose nothing where it has no clue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llamacffi.errors import ParameterError, UnsupportedError
from llamacffi.sampling.chain import SamplerChain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llamacffi.model import Model

__all__ = ["DraftModel", "PromptLookup"]

# With the token before it, a multiple of four, as is 2n+1 of it: ggml's CPU kernels compute four
# rows in little more time than two.
FIRST_DRAFT = 3
CHANGED_TOKENS = 4  # how far a copy may go astray before it counts as lost


class PromptLookup:
    """Proposes what followed the last tokens where they stood before (prompt lookup, n-grams).

    For texts that repeat what the prompt has: editing, quoting, code, summaries. It begins with
    few tokens, and proposes twice as many each time that all of them were right. When less than
    half of them were, more of the last tokens must agree before it proposes again.

    Args:
        num_pred_tokens: Most tokens to propose.
        max_ngram_size: How many of the last tokens are looked for; where they are not found,
            fewer are, down to min_ngram_size. Of several places the last one counts.
        min_ngram_size: The fewest; None for 3, or max_ngram_size if that is less.
    """

    def __init__(
        self,
        num_pred_tokens: int = 31,
        max_ngram_size: int = 6,
        min_ngram_size: int | None = None,
    ) -> None:
        if min_ngram_size is None:
            min_ngram_size = min(3, max_ngram_size)
        if num_pred_tokens < 1 or not 1 <= min_ngram_size <= max_ngram_size:
            raise ParameterError(
                f"num_pred_tokens={num_pred_tokens}, max_ngram_size={max_ngram_size}, "
                f"min_ngram_size={min_ngram_size}: choose 1 or more, and min not above max."
            )
        self._most = num_pred_tokens
        self._max_ngram = max_ngram_size
        self._min_ngram = min_ngram_size
        self._forget()

    def _forget(self) -> None:
        """What was learnt of another text."""
        self._count = FIRST_DRAFT
        self._needed = self._min_ngram
        self._last: tuple[int, Sequence[int]] = (0, ())  # where the last proposal began, and it
        self._source = 0  # where it was taken from
        self._resume: int | None = None  # where the text that was copied goes on

    def __call__(self, tokens: NDArray[np.intc], /) -> Sequence[int]:
        """The proposal."""
        if tokens.size <= self._last[0]:
            self._forget()
        self._learn(tokens)
        start = self._find_near(tokens)
        if start is None:
            start = self._find(tokens)
        proposal: list[int] = []
        if start is not None:
            known = tokens[start : start + min(self._count, self._most)].tolist()
            # A text that repeats itself goes on with what is proposed here.
            rounds = -(-min(self._count, self._most) // len(known))
            proposal = (known * rounds)[: min(self._count, self._most)]
            self._source, self._resume = start, None
        self._last = (tokens.size, proposal)
        return proposal

    def _learn(self, tokens: NDArray[np.intc]) -> None:
        start, proposal = self._last
        if not proposal:
            return
        came = tokens[start : start + len(proposal)].tolist()
        wrong = (i for i, token in enumerate(proposal) if came[i : i + 1] != [token])
        right = next(wrong, len(proposal))
        if right == len(proposal):
            self._count = 2 * self._count + 1
        elif right >= 2 * self._needed:  # a change in a copy: it may well go on
            self._count = max(FIRST_DRAFT, self._count // 2)
            self._resume = self._source + right
        else:
            self._count = FIRST_DRAFT
        if 2 * right >= len(proposal):
            self._needed = self._min_ngram
        else:
            self._needed = min(self._needed + 1, self._max_ngram)

    def _find_near(self, tokens: NDArray[np.intc]) -> int | None:
        """Where a copy goes on after a change: a token inserted, left out or replaced."""
        if self._resume is None:
            return None
        near: list[int] = tokens[self._resume : self._resume + CHANGED_TOKENS].tolist()
        last = int(tokens[-1])
        if self._resume < tokens.size - CHANGED_TOKENS and last in near:
            return self._resume + near.index(last) + 1
        if tokens.size - self._last[0] > CHANGED_TOKENS:
            self._resume = None
        return None

    def _find(self, tokens: NDArray[np.intc]) -> int | None:
        """Behind the place where the last tokens stood before."""
        import numpy as np

        # Where the last token stood; then, of these, where the ones before it agree too.
        places = np.flatnonzero(tokens[:-1] == tokens[-1])
        found = None
        for size in range(1, self._max_ngram + 1):
            if size > 1:
                places = places[places >= size - 1]
                places = places[tokens[places - size + 1] == tokens[-size]]
            if not places.size:
                break
            if size >= self._needed:
                found = int(places[-1]) + 1
        return found


class DraftModel:
    """Proposes what a smaller model of the same vocabulary would go on with.

    Args:
        model: The smaller model.
        num_pred_tokens: Most tokens to propose.
        n_ctx: Context length in tokens; longer texts get no proposals. 0 for the model's own.
        n_threads: Threads; None for one per physical core.

    Raises: As `Context`; UnsupportedError for a model that cannot take tokens back.
    """

    def __init__(
        self,
        model: Model,
        num_pred_tokens: int = 4,
        n_ctx: int = 0,
        n_threads: int | None = None,
    ) -> None:
        if num_pred_tokens < 1:
            raise ParameterError(f"num_pred_tokens={num_pred_tokens}: choose 1 or more.")
        self._most = num_pred_tokens
        self._context = model.context(n_ctx=n_ctx, n_threads=n_threads)
        attends = self._context._has_memory and not model.has_encoder
        if not attends or model.is_recurrent or model.is_hybrid:
            self._context.close()
            raise UnsupportedError(f"{model} cannot draft: its memory cannot take tokens back.")
        self._chain = SamplerChain(model, ["greedy"])

    def close(self) -> None:
        """Free context and sampler; the model stays open."""
        self._chain.close()
        self._context.close()

    def __call__(self, tokens: NDArray[np.intc], /) -> Sequence[int]:
        """The proposal."""
        context, memory = self._context, self._context.memory
        ids: list[int] = tokens.tolist()
        n_vocab = context.model.vocab.n_tokens
        if len(ids) + self._most > context.n_ctx_seq or max(ids) >= n_vocab:
            return ()
        kept = min(memory.common_prefix(ids), len(ids) - 1)
        memory.remove(0, kept)
        context.decode_tokens(ids[kept:], position=kept)
        proposal: list[int] = []
        while True:
            token = self._chain.sample(context)
            if context.model.vocab.is_eog(token):
                return proposal
            proposal.append(token)
            if len(proposal) == self._most:
                return proposal
            context.decode_token(token, len(ids) + len(proposal) - 1)
