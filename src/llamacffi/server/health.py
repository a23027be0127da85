"""GET /health, /metrics and /v1/models: how the server is, and what it has."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from llamacffi.server.answers import Json
from llamacffi.server.describing import errors
from llamacffi.server.metrics import CONTENT_TYPE
from llamacffi.server.models import unknown_model
from llamacffi.server.schemas.answers import Health, ModelEntry, ModelList
from llamacffi.server.state import State

__all__ = ["add_health"]

_HEALTH: Any = {
    200: {"model": Health, "description": "It answers requests."},
    503: {"model": Health, "description": "It does not."},
}
_METRICS: Any = {
    200: {
        "description": "Prometheus' text.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}


def add_health(router: APIRouter, state: State) -> None:
    """Add the routes."""

    @router.get("/health", response_model=None, responses=_HEALTH)
    async def health() -> Response:
        """Whether requests are answered: 200 if so, 503 while loading, stopping or failed."""
        status, body = condition(state)
        return Json(body, status)

    @router.get("/metrics", response_model=None, responses=_METRICS)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(state.metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    @router.get("/v1/models", response_model=None, responses={200: {"model": ModelList}})
    async def models() -> Response:
        """The models, in OpenAI's shape."""
        return Json({"object": "list", "data": state.models.described()})

    @router.get(
        "/v1/models/{name:path}",
        response_model=None,
        responses={200: {"model": ModelEntry}, **errors(404)},
    )
    async def model(name: str) -> Response:
        """One of them."""
        for described in state.models.described():
            if name in (described["id"], *described["aliases"]):
                return Json(described)
        raise unknown_model(name)


def condition(state: State) -> tuple[int, dict[str, Any]]:
    """The status of GET /health, and its body.

    "degraded" is a server that answers, but refuses some requests: a queue is full, or one of
    several models could not be loaded.
    """
    models = state.models
    if state.stopping:
        return 503, {"status": "stopping"}
    if models.failure is not None:
        return 503, {"status": "failed"}
    if models.starting:
        return 503, {"status": "loading"}
    full = [model.id for model in models.present() if _is_full(model.engine.stats())]
    failed = [model.id for model in models.conditions() if model.state == "failed"]
    troubles = {name: ids for name, ids in (("queue_full", full), ("failed", failed)) if ids}
    return 200, {"status": "degraded" if troubles else "ok", **troubles}


def _is_full(stats: Any) -> bool:
    return stats.n_queue_max is not None and stats.n_waiting >= stats.n_queue_max > 0
