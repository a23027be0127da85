"""Log probabilities of a token and its best alternatives, from raw logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TokenLogprobs", "token_logprobs"]


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
    with np.errstate(over="ignore"):
        total = np.log(np.exp(logits - highest).sum(dtype=np.float64))

    def value(index: int) -> float:
        return float(np.float64(logits[index]) - np.float64(highest) - total)

    # argpartition finds the best in one pass; only those few are then sorted.
    best = np.argpartition(logits, -count)[-count:] if count else np.array([], int)
    ordered = sorted(((int(i), value(i)) for i in best), key=lambda pair: -pair[1])
    return TokenLogprobs(token, value(token), tuple(ordered))
