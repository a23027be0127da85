"""Log probabilities of a token and its best alternatives, from raw logits."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TokenLogprobs", "token_logprobs"]

BLOCK = 256


@dataclass(frozen=True)
class TokenLogprobs:
    """What the model thought of one token, before any sampler changed it.

    Attributes:
        token: The token that was chosen.
        logprob: Its natural log probability.
        top: The most probable (token, logprob) pairs, best first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprobs(logits: NDArray[np.float32], token: int, count: int) -> TokenLogprobs:
    """Log-softmax of the logits at a token and at the `count` best ones, without a full sort.

    Args:
        logits: float32 of shape (n_vocab,); not changed.
        token: The token id that was chosen.
        count: How many alternatives; 0 or more.
    """
    import numpy as np

    count = min(count, logits.size)
    highest = logits.max()
    if highest == -np.inf:  # everything is forbidden: nothing has a probability
        return TokenLogprobs(token, -np.inf, tuple((i, -np.inf) for i in range(count)))
    # Summed in double precision: 100,000 terms in single precision lose four digits. The largest is
    # subtracted first, in double precision too where it is added again: it may be huge.
    scratch = _scratch_of(logits.size)
    with np.errstate(over="ignore"):
        np.exp(np.subtract(logits, highest, out=scratch), out=scratch)
    total = np.log(scratch.sum(dtype=np.float64))

    def value(index: int) -> float:
        return float(np.float64(logits[index]) - np.float64(highest) - total)

    best = sorted(_highest(logits, count), key=lambda index: -logits[index])
    return TokenLogprobs(token, value(token), tuple((index, value(index)) for index in best))


def _highest(logits: NDArray[np.float32], count: int) -> list[int]:
    """The places of the `count` largest, in one pass and without an array of all places."""
    import numpy as np

    if not count:
        return []
    # The k largest are not below the k-th largest of the blocks' maxima.
    starts = np.arange(0, logits.size, BLOCK)
    if count >= starts.size:
        few = np.argpartition(logits, -count)[-count:]
        return [int(index) for index in few]
    maxima = np.maximum.reduceat(logits, starts)
    limit = np.partition(maxima, -count)[-count]
    few = np.flatnonzero(logits >= limit)
    best = few[np.argsort(-logits[few], kind="stable")[:count]]
    return [int(index) for index in best]


def _scratch_of(size: int) -> NDArray[np.float32]:
    """Kept from token to token: a fresh one costs more in page faults than the sums take."""
    import numpy as np

    kept: NDArray[np.float32] | None = getattr(_kept, "scratch", None)
    if kept is None or kept.size != size:
        kept = _kept.scratch = np.empty(size, np.float32)
    return kept


_kept = threading.local()
