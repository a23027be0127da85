"""One answer at a time on one context: other threads wait, the same thread supersedes itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, TypeVar

from llamacffi.errors import CancelledError

__all__ = ["Turn"]

_Step = TypeVar("_Step")


class Turn:
    """Lets one stream of steps run; the same thread's unfinished one gives way to the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._steps: Iterator[Any] | None = None

    def take(self, steps: Iterator[_Step]) -> Iterator[_Step]:
        """Run the steps when it is their turn, which begins with the first one."""
        if self._owner == threading.get_ident():
            self._end()  # a stream that this thread left unfinished would never make room
        self._lock.acquire()
        self._owner, self._steps = threading.get_ident(), steps
        try:
            while self._steps is steps:
                step = next(steps, None)
                if step is None:
                    return
                yield step
            raise CancelledError(
                "This stream was superseded by another call on the same Llama. Read a stream to "
                "its end before the next call, or use one Llama for each."
            )
        finally:
            if self._steps is steps:
                self._end()

    def _end(self) -> None:
        self._owner = self._steps = None
        self._lock.release()
