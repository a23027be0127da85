"""Which worker gets a request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from llamacffi.server.workers.process import WorkerProcess

__all__ = ["Balance"]

KEYS_MAX = 4096
SLACK = 1  # so many more requests may one have that knows the prompt


class Balance:
    """The least busy worker, or the one that knows the conversation, if it is not much busier."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[int, int] = OrderedDict()
        self._turn = 0

    def choose(self, among: Sequence[WorkerProcess], key: int | None) -> WorkerProcess:
        """Choose one.

        Args:
            among: Those that answer; at least one.
            key: The same for requests that begin alike; None where that says nothing.
        """
        least = min(process.open for process in among)
        known = None if key is None else self._numbers.get(key)
        for process in among:
            if process.number == known and process.open <= least + SLACK:
                chosen = process
                break
        else:
            idle = [process for process in among if process.open == least]
            self._turn += 1
            chosen = idle[self._turn % len(idle)]
        if key is not None:
            self._numbers[key] = chosen.number
            self._numbers.move_to_end(key)
            if len(self._numbers) > KEYS_MAX:
                self._numbers.popitem(last=False)
        return chosen
