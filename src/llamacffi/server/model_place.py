"""One of several models: whether it is loaded, who uses it, and how loading it went."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llamacffi.server.errors import SERVER, ApiError
from llamacffi.server.models import ModelCondition, ServedModel

if TYPE_CHECKING:
    from llamacffi.server.memory_room import Need
    from llamacffi.server.model_spec import ModelSpec

__all__ = ["ModelPlace", "unavailable"]

RETRY_SECONDS_MAX = 300.0


@dataclass
class ModelPlace:
    """A model's place among others.

    Attributes:
        spec: What the operator says of it.
        retry_seconds: After a load that failed the next one waits so long, then twice as long.
        served: What computes; None unless it is loaded.
        loading: Loads it.
        unloading: Unloads it.
        need: Its memory, from when it may be loaded until it is unloaded.
        n_users: Requests that use it or wait for it.
        used: When it was last used, by time.monotonic().
        idle: Unloads it when nobody has used it for long enough.
    """

    spec: ModelSpec
    retry_seconds: float
    served: ServedModel | None = None
    loading: asyncio.Task[None] | None = None
    unloading: asyncio.Task[None] | None = None
    need: Need | None = None
    n_users: int = 0
    used: float = field(default_factory=time.monotonic)
    idle: asyncio.TimerHandle | None = None
    failure: str = ""
    n_loads: int = 0
    n_failures: int = 0
    n_unloads: int = 0
    _described: dict[str, Any] | None = None
    _created: int = field(default_factory=lambda: int(time.time()))
    _failed_in_a_row: int = 0
    _retry_at: float = 0.0

    @property
    def can_leave(self) -> bool:
        """Whether it is loaded, and may be unloaded now."""
        return self.served is not None and not self.n_users and not self.spec.pinned

    @property
    def state(self) -> str:
        """A word for it."""
        if self.served is not None:
            return "loaded"
        if self.loading is not None:
            return "loading"
        return "failed" if self.failure else "unloaded"

    def condition(self) -> ModelCondition:
        """How it is, for /health and /metrics."""
        return ModelCondition(
            self.spec.id, self.state, self.n_users, self.n_loads, self.n_failures, self.n_unloads
        )

    def described(self) -> dict[str, Any]:
        """Its entry in the list of models; the facts are known once it has been loaded."""
        known = self._described or {
            "id": self.spec.id,
            "object": "model",
            "created": self._created,
            "owned_by": "llamacffi",
            "aliases": list(self.spec.aliases),
            "meta": None,
        }
        return {**known, "state": self.state}

    def loaded(self, served: ServedModel) -> None:
        """It was loaded."""
        self.served = served
        self._described = served.described()
        self.n_loads += 1
        self.failure, self._failed_in_a_row, self._retry_at = "", 0, 0.0

    def failed(self, error: BaseException) -> None:
        """It could not be loaded."""
        self.n_failures += 1
        wait = min(self.retry_seconds * 2**self._failed_in_a_row, RETRY_SECONDS_MAX)
        self._failed_in_a_row += 1
        self._retry_at = time.monotonic() + wait
        # Not the error's words: they name the server's files. The log has them.
        self.failure = f"The model {self.spec.id!r} could not be loaded: {type(error).__name__}"

    @property
    def is_resting(self) -> bool:
        """Whether a load failed so lately that it is not tried again yet."""
        return bool(self.failure) and time.monotonic() < self._retry_at

    def refusal(self) -> ApiError:
        """What a request gets when a load failed."""
        seconds = max(0, int(self._retry_at - time.monotonic())) + 1
        return unavailable(
            f"{self.failure}. The server's log says why; it is tried again in {seconds} s.",
            "model_unavailable",
            seconds,
        )


def unavailable(message: str, code: str, retry_seconds: int) -> ApiError:
    """A model cannot be had now."""
    headers = {"Retry-After": str(retry_seconds)}
    return ApiError(503, message, kind=SERVER, code=code, headers=headers)
