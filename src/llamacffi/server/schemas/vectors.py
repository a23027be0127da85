"""Requests to /v1/embeddings and /v1/rerank."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from llamacffi.server.schemas.base import Items, Request, Token

__all__ = ["EmbeddingRequest", "RerankRequest"]


class EmbeddingRequest(Request):
    """Turn texts into vectors."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": ["A cat.", "A dog."]}]})

    input: str | Items[Token] | Items[str] | Items[Items[Token]] = Field(
        description="A text, token ids, or a list of either."
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=2**20, description="Keep the first of them.")


class RerankRequest(Request):
    """Order documents by how well they answer a query."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "What purrs?", "documents": ["A cat.", "A dog."]}]
        }
    )

    query: str
    documents: Items[str] = Field(min_length=1)
    top_n: int | None = Field(None, ge=1, description="How many to return.")
    return_documents: bool | None = Field(None, description="Repeat the texts in the answer.")
