"""How long to wait before what has ended is started again."""

from __future__ import annotations

__all__ = ["Backoff"]

LONG_LIFE_SECONDS = 60.0  # what lived longer was sound
FIRST_SECONDS = 0.5
LONGEST_SECONDS = 30.0
LOOP = 3  # so many short lives in a row are no accidents


class Backoff:
    """Counts short lives in a row."""

    def __init__(self) -> None:
        self._short_lives = 0

    def ended(self, lived: float) -> float:
        """Count an end.

        Args:
            lived: Seconds from the start to it.

        Returns:
            Seconds to wait: none after a long life, then ever more.
        """
        if lived > LONG_LIFE_SECONDS:
            self._short_lives = 0
            return 0.0
        self._short_lives += 1
        if self._short_lives == 1:
            return 0.0
        return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** (self._short_lives - 2))

    @property
    def looping(self) -> bool:
        """Whether it ends again and again."""
        return self._short_lives >= LOOP
