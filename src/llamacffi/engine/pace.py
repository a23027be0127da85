"""How much of the waiting prompts goes into one step, so that nobody's stream stalls."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Pace", "shares"]

FIRST_ROWS = 128  # as long as nothing is known
LEAST_ROWS = 16
# A step that only computes a prompt may take longer: just newcomers wait for its end.
UNHURRIED = 4
# How much the last measurement counts.
NEWEST = 0.3


class Pace:
    """Learns how long answers take, and how much longer with so many tokens of prompts.

    Args:
        step_seconds: How long a step may take while answers are being generated.
        n_batch: Most tokens in a step.
    """

    def __init__(self, step_seconds: float, n_batch: int) -> None:
        self._step_seconds = step_seconds
        self._n_batch = n_batch
        self._answer_seconds: float | None = None
        self._row_seconds: float | None = None

    def rows(self, n_answering: int, n_prompts: int = 1) -> int:
        """How many tokens of prompts may go into a step beside one for each answer.

        Several prompts are taken a few at a time, also while nobody is answered: the first ones get
        their answers sooner, and those who ask in step with each other do not stay so.
        """
        most = self._n_batch - n_answering
        if self._row_seconds is None:
            return max(0, min(FIRST_ROWS, most))
        seconds = self._step_seconds
        if n_answering:
            seconds -= self._answer_seconds or 0.0
        elif n_prompts == 1:
            seconds *= UNHURRIED
        rows = int(min(seconds / self._row_seconds, self._n_batch))
        return max(0, min(max(rows, LEAST_ROWS), most))

    def learn(self, n_answering: int, n_rows: int, seconds: float) -> None:
        """Note how long a step took.

        Args:
            n_answering: The answers in it.
            n_rows: Its tokens of prompts.
            seconds: How long it took.
        """
        if not n_rows:
            self._answer_seconds = _mixed(self._answer_seconds, seconds)
        elif n_rows >= LEAST_ROWS:
            answers = (self._answer_seconds or 0.0) if n_answering else 0.0
            # Never less than some of it: a step of answers may have been disturbed.
            more = max(seconds - answers, seconds / 4, 1e-9)
            self._row_seconds = _mixed(self._row_seconds, more / n_rows)


def _mixed(before: float | None, now: float) -> float:
    return now if before is None else (1 - NEWEST) * before + NEWEST * now


def shares(needs: Sequence[int], rows: int) -> list[int]:
    """Divide a step among prompts.

    The shortest ones come first, which are then out of the way; but the one whose turn it is gets a
    quarter in any case, so that each is finished in the end.

    Args:
        needs: How many tokens each lacks, in the order of their turn.
        rows: How many there are to give.

    Returns:
        How many tokens of each are computed.
    """
    given = [0] * len(needs)
    if not needs:
        return given
    given[0] = min(needs[0], (rows + 3) // 4)
    left = rows - given[0]
    lacks = [needs[0] - given[0], *needs[1:]]
    for place in sorted(range(len(needs)), key=lacks.__getitem__):
        more = min(lacks[place], left)
        given[place] += more
        left -= more
    return given
