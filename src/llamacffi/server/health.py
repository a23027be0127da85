"""GET /health, /metrics and /v1/models: how the server is, and what it has."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from llamacffi.server.answers import Json
from llamacffi.server.errors import ApiError
from llamacffi.server.metrics import CONTENT_TYPE
from llamacffi.server.state import State

__all__ = ["add_health"]


def add_health(router: APIRouter, state: State) -> None:
    """Add the routes."""

    @router.get("/health", response_model=None)
    async def health() -> Response:
        """Whether requests are answered: 200 if so, 503 while loading, stopping or failed."""
        status, body = condition(state)
        return Json(body, status)

    @router.get("/metrics", response_model=None)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(state.metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    @router.get("/v1/models", response_model=None)
    async def models() -> Response:
        """The models, in OpenAI's shape."""
        return Json({"object": "list", "data": state.models.described()})

    @router.get("/v1/models/{name:path}", response_model=None)
    async def model(name: str) -> Response:
        """One of them."""
        for described in state.models.described():
            if name in (described["id"], *described["aliases"]):
                return Json(described)
        raise ApiError(
            404,
            f"The model {name!r:.100} does not exist: see GET /v1/models.",
            param="model",
            code="model_not_found",
        )


def condition(state: State) -> tuple[int, dict[str, Any]]:
    """The status of GET /health, and its body.

    "degraded" is a server that answers, but refuses some requests: its queue is full.
    """
    models = state.models
    if state.stopping:
        return 503, {"status": "stopping"}
    if models.failure is not None:
        return 503, {"status": "failed"}
    served = models.present()
    if not served:
        return 503, {"status": "loading"}
    full = [model.id for model in served if _is_full(model.engine.engine.stats())]
    if full:
        return 200, {"status": "degraded", "queue_full": full}
    return 200, {"status": "ok"}


def _is_full(stats: Any) -> bool:
    return stats.n_queue_max is not None and stats.n_waiting >= stats.n_queue_max > 0
