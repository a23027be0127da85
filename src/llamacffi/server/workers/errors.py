"""What a client is told when no worker can answer."""

from __future__ import annotations

from llamacffi.server.errors import RETRY_SECONDS, SERVER, ApiError

__all__ = ["NoWorkerError", "WorkerLostError"]

_RETRY = {"Retry-After": str(RETRY_SECONDS)}


class WorkerLostError(ApiError):
    """The worker ended in the middle of the answer."""

    def __init__(self) -> None:
        super().__init__(
            502,
            "The worker process that computed this answer has ended before it was complete. "
            "Ask again: another one will answer.",
            kind=SERVER,
            code="worker_lost",
            headers=_RETRY,
        )


class NoWorkerError(ApiError):
    """No worker can answer now."""

    def __init__(self, loading: bool) -> None:
        super().__init__(
            503,
            "The model is being loaded. Try again soon."
            if loading
            else "No worker process can answer: each has ended. They are started again; "
            "GET /health says how they are.",
            kind=SERVER,
            code="model_loading" if loading else "no_worker",
            headers=_RETRY,
        )
