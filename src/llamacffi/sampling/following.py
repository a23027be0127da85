"""Picking tokens that are known already, so that a text goes on where it was interrupted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Following"]


class Following:
    """A logits processor that leaves one token to pick, as long as it knows which.

    The samplers behind it run as ever: penalties, grammars and random numbers are then where they
    would be had the tokens been picked.

    Args:
        tokens: Token ids of the answer's beginning.
        n_prompt: How many tokens stand before the answer.
    """

    def __init__(self, tokens: Sequence[int], n_prompt: int) -> None:
        self._tokens = list(tokens)
        self._n_prompt = n_prompt

    def __call__(self, tokens: NDArray[np.intc], logits: NDArray[np.float32]) -> None:
        """Ban all tokens but the next one that is known."""
        place = len(tokens) - self._n_prompt
        if place < len(self._tokens):
            logits[:] = -math.inf
            logits[self._tokens[place]] = 0.0
