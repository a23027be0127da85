"""What of a request has reached its client, so that another replica can go on with it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ray.exceptions
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError

from llamacffi.errors import BusyError, ReplicaDiedError
from llamacffi.ray.replica import Parcel

__all__ = ["Attempts", "Delivery", "plain_error"]

DEATHS = (
    ray.exceptions.RayActorError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,  # the answer went with its machine
    ray.exceptions.WorkerCrashedError,
    ReplicaUnavailableError,
)
# The place of pieces that belong to no choice: the usage.
NO_CHOICE = -1


class Attempts:
    """How often a request may be given to a replica.

    Args:
        n_max: Most times; a request may be what its replicas die of.
    """

    def __init__(self, n_max: int) -> None:
        self._n_max = n_max
        self._n_failed = 0

    def failed(self, error: BaseException) -> None:
        """Say that one failed; returns if there is to be another.

        Raises:
            ReplicaDiedError: That was the last one.
            Exception: It did not fail because its replica died: what the replica raised.
        """
        if not isinstance(error, DEATHS):
            raise plain_error(error) from None
        self._n_failed += 1
        if self._n_failed >= self._n_max:
            raise ReplicaDiedError(
                f"{self._n_failed} replicas died while they answered this request, the last one "
                f"of: {error}"
            ) from error


def plain_error(error: BaseException) -> BaseException:
    """What a replica raised, without Ray's wrapping."""
    if isinstance(error, BackPressureError):
        return BusyError(f"Too many requests wait for a replica: {error}")
    if isinstance(error, ray.exceptions.RayTaskError):
        cause = error.cause
        if isinstance(cause, BaseException):
            return cause
    return error


class Delivery:
    """The pieces of one stream that were delivered, and the tokens that they were made of.

    A replica that goes on with a stream begins it anew, with the same first tokens. It cuts them
    into the same pieces, so those that were delivered are counted off, by choice.

    Attributes:
        begun: By choice, the tokens that were picked.
    """

    def __init__(self) -> None:
        self.begun: dict[int, list[int]] = {}
        self._delivered: Counter[int] = Counter()
        self._known: Counter[int] = Counter()
        self._ended: set[int] = set()
        self._head: dict[str, Any] = {}

    def again(self) -> None:
        """Another replica begins."""
        self._known = self._delivered.copy()

    def take(self, parcel: Parcel) -> dict[str, Any] | None:
        """The piece to deliver, or None if it has been."""
        piece, tokens = parcel
        choice = next(iter(piece["choices"]), {"index": NO_CHOICE})
        index = choice["index"]
        if tokens:
            self.begun.setdefault(index, []).extend(tokens)
        if self._known[index]:
            self._known[index] -= 1
            return None
        if index in self._ended:
            return None
        self._delivered[index] += 1
        if choice.get("finish_reason") is not None:
            self._ended.add(index)
        # All pieces of a stream have the same name and date.
        self._head = self._head or {"id": piece["id"], "created": piece["created"]}
        return {**piece, **self._head}
