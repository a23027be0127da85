"""A text's tokens as they grow: a list for Python, and an array that processors see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TokenHistory"]


class TokenHistory:
    """The tokens of one text, prompt included.

    Making an array of a list takes a microsecond for every twenty tokens, at each token. Here it
    is made once and grows with the list; where nobody asks for it, it is not made at all.

    Args:
        tokens: What is there already.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)
        self._room: NDArray[np.intc] | None = None
        self._filled = 0

    def array(self) -> NDArray[np.intc]:
        """The tokens as int32 of shape (n_tokens,), read-only: a view, no copy."""
        import numpy as np

        count = len(self.tokens)
        if self._room is None or count > self._room.size:
            self._room = np.empty(max(256, 2 * count), dtype=np.intc)
            self._filled = 0
        self._room[self._filled : count] = self.tokens[self._filled : count]
        self._filled = count
        view = self._room[:count]
        view.flags.writeable = False
        return view
