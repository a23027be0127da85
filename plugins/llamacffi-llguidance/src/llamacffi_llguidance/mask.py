"""Which tokens may come next, and forbidding the others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

__all__ = ["Mask"]

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
# The upper bounds of eight logits, by the byte of the mask. Looking them up takes 10 us for 49,000
# tokens whatever the mask is; np.copyto and boolean indexing take 8 to 150 us.
_BOUNDS = np.where(_BITS, np.float32(np.inf), np.float32(-np.inf)).astype(np.float32)


class Mask:
    """Memory for one matcher's mask over a vocabulary of `size` tokens."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._words = np.zeros((size + 31) // 32, np.int32)
        self._address = self._words.ctypes.data
        self._bytes = self._words.view(np.uint8)
        self._bounds = np.empty((self._bytes.size, 8), np.float32)

    def compute(self, matcher: LLMatcher) -> None:
        """Ask the matcher; an error shows in its state, and the mask then allows the end only."""
        matcher.unsafe_compute_mask_ptr(self._address, self._words.nbytes)

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        """Set the logits of forbidden tokens to -inf in place."""
        np.take(_BOUNDS, self._bytes, axis=0, out=self._bounds, mode="clip")
        np.minimum(logits, self._bounds.reshape(-1)[: logits.size], out=logits)
