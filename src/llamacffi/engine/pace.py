"""How much of the waiting prompts goes into one step, so that nobody's stream stalls."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Pace", "shares"]

FIRST_ROWS = 128  # as long as nothing is known
LEAST_ROWS = 16
# A step that only computes prompts may take longer: just newcomers wait for its end.
UNHURRIED = 4


class Pace:
    """Learns how long the tokens of a prompt take.

    Args:
        step_seconds: How long a step may take while answers are being generated.
        n_batch: Most tokens in a step.
    """

    def __init__(self, step_seconds: float, n_batch: int) -> None:
        self._step_seconds = step_seconds
        self._n_batch = n_batch
        self._row_seconds: float | None = None

    def rows(self, n_answering: int) -> int:
        """How many tokens of prompts may go into a step beside one for each answer."""
        if self._row_seconds is None:
            rows = FIRST_ROWS
        else:
            seconds = self._step_seconds if n_answering else self._step_seconds * UNHURRIED
            rows = int(seconds / self._row_seconds)
        return max(0, min(max(rows, LEAST_ROWS), self._n_batch - n_answering))

    def learn(self, n_rows: int, seconds: float) -> None:
        """Note how long a step of so many tokens took."""
        if n_rows < LEAST_ROWS:
            return
        each = seconds / n_rows
        before = self._row_seconds
        self._row_seconds = each if before is None else 0.7 * before + 0.3 * each


def shares(needs: Sequence[int], rows: int) -> list[int]:
    """Divide a step among prompts.

    The first one gets up to half, so that each is finished in the end; the rest goes to the
    shortest ones, which are then out of the way; what is left over goes to the first again.

    Args:
        needs: How many tokens each lacks, in the order of their turn.
        rows: How many there are to give.

    Returns:
        How many tokens of each are computed.
    """
    given = [0] * len(needs)
    if not needs:
        return given
    first = given[0] = min(needs[0], (rows + 1) // 2)
    left = rows - first
    for place in sorted(range(1, len(needs)), key=lambda place: needs[place]):
        given[place] = min(needs[place], left)
        left -= given[place]
    given[0] += min(needs[0] - first, left)
    return given
