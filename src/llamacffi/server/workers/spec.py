"""What a worker is told when it is started, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamacffi.errors import ParameterError
from llamacffi.server.loading import Loading
from llamacffi.server.settings import Settings

__all__ = ["WorkerSpec", "WorkersPolicy"]


@dataclass(frozen=True)
class WorkersPolicy:
    """How workers are kept.

    Attributes:
        n_workers: How many.
        silent_max: Seconds without an answer to /health after which one is replaced.
        start_max: Seconds that one may take to listen; loading the model does not count.
    """

    n_workers: int
    silent_max: float = 30.0
    start_max: float = 120.0

    def __post_init__(self) -> None:
        for name in ("n_workers", "silent_max", "start_max"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"{name}={getattr(self, name)}: choose more than 0.")


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker serves.

    Attributes:
        loading: How it gets its engine.
        names: The names of the model.
        settings: How it behaves.
        log_level: Of its log; None to leave logging as it is.
        number: Which worker it is, from 1.
        socket: Where it listens.
    """

    loading: Loading
    names: tuple[str, ...]
    settings: Settings
    log_level: int | None = None
    number: int = 0
    socket: str = ""

    def behind(self, number: int, socket: str) -> WorkerSpec:
        """For one of several workers: who asks, and how much, was checked before."""
        settings = replace(
            self.settings, api_keys=(), cors_origins=(), allowed_hosts=(), per_key_max=None
        )
        return replace(self, settings=settings, number=number, socket=socket)
