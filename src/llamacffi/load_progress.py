"""What a load tells of its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Progress", "reporter"]

Progress = bool | Callable[[float], bool | None]


class reporter:  # noqa: N801 - reads as a verb where it is used
    """Turns the `progress` argument into a function of the fraction done; False cancels."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name
        self._bar: Any = None

    def __enter__(self) -> Callable[[float], bool]:
        if self._progress is True:
            from tqdm import tqdm

            self._bar = tqdm(total=100, desc=f"Loading {self._name}", unit="%", leave=False)
        return self._report

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _report(self, fraction: float) -> bool:
        if self._bar is not None:
            self._bar.update(round(100 * fraction) - self._bar.n)
        elif callable(self._progress):
            return self._progress(float(fraction)) is not False
        return True
