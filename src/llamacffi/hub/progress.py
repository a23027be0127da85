"""How a download tells its caller how far it is, and how the caller stops it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llamacffi.call import check_cancelled
from llamacffi.errors import CancelledError

__all__ = ["Progress", "Report", "reporting"]

Progress = bool | Callable[[int, int | None], object]
"""True for a bar on stderr, or a callable that gets the bytes done and the total, if known.

The callable cancels by returning False.
"""

Report = Callable[[int, int | None], None]


@contextmanager
def reporting(progress: Progress, label: str) -> Iterator[Report]:
    """Yield the function that a source calls with the bytes done and the total, if known."""
    if callable(progress):
        yield _calling(progress, label)
    elif progress:
        from tqdm import tqdm

        with tqdm(desc=label, file=sys.stderr, unit="B", unit_scale=True, unit_divisor=1024) as bar:

            def show(done: int, total: int | None) -> None:
                check_cancelled()
                bar.total = total
                bar.update(done - bar.n)

            yield show
    else:
        yield lambda _done, _total: check_cancelled()


def _calling(progress: Callable[[int, int | None], object], label: str) -> Report:
    def report(done: int, total: int | None) -> None:
        check_cancelled()
        if progress(done, total) is False:
            raise CancelledError(
                f"the download of {label} was cancelled by the progress callback after {done} "
                "bytes; "
                "ask for the model again to go on"
            )

    return report
