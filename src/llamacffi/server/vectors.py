"""POST /v1/embeddings and /v1/rerank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from llamacffi.errors import ParameterError
from llamacffi.server.answering import answered
from llamacffi.server.describing import answers
from llamacffi.server.models import ServedModel
from llamacffi.server.schemas.answers import EmbeddingList, Ranking
from llamacffi.server.schemas.vectors import EmbeddingRequest, RerankRequest
from llamacffi.server.settings import Settings
from llamacffi.server.state import State

if TYPE_CHECKING:
    from llamacffi.engine import AsyncEngine

__all__ = ["add_vectors"]


def add_vectors(router: APIRouter, state: State) -> None:
    """Add the routes."""

    @router.post("/v1/embeddings", response_model=None, responses=answers(EmbeddingList))
    async def embeddings(asked: EmbeddingRequest, request: Request) -> Response:
        """Turn texts into vectors, in OpenAI's shapes."""
        several = isinstance(asked.input, list) and not all(
            isinstance(part, int) for part in asked.input
        )
        _check_count("input", len(asked.input) if several else 1, state.settings)

        async def ask(engine: AsyncEngine, served: ServedModel) -> Any:
            return await engine.create_embedding(
                asked.input,
                model=served.id,
                encoding_format=asked.encoding_format or "float",
                dimensions=asked.dimensions,
                normalize=True,  # as OpenAI's are
                truncate=False,  # what is left out should not go unnoticed
            )

        return await answered(state, request, asked.model, ask)

    @router.post("/v1/rerank", response_model=None, responses=answers(Ranking))
    @router.post("/rerank", response_model=None, include_in_schema=False)
    async def rerank(asked: RerankRequest, request: Request) -> Response:
        """Order documents by how well they answer a query, in Jina's shapes."""
        _check_count("documents", len(asked.documents), state.settings)

        async def ask(engine: AsyncEngine, served: ServedModel) -> Any:
            return await engine.rerank(
                asked.query,
                asked.documents,
                asked.top_n,
                model=served.id,
                return_documents=bool(asked.return_documents),
            )

        return await answered(state, request, asked.model, ask)


def _check_count(field: str, count: int, settings: Settings) -> None:
    if not 0 < count <= settings.inputs_max:
        raise ParameterError(
            f"{field}: {count} texts; this server takes 1 to {settings.inputs_max} in one request."
        )
