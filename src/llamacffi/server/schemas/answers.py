"""What answers look like, for the description of the interface only: none is made through these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

__all__ = [
    "ChatCompletion",
    "Completion",
    "Content",
    "EmbeddingList",
    "ErrorAnswer",
    "Health",
    "ModelEntry",
    "ModelList",
    "Ranking",
    "Tokens",
]

Count = Annotated[int, Field(ge=0)]
Reason = Literal["stop", "length", "tool_calls", "function_call"]


class Error(BaseModel):
    """What was wrong."""

    message: Annotated[str, Field(min_length=1)]
    type: str
    param: str | None = Field(description="The field of the request that is to blame.")
    code: str | None = Field(description="A word for programs.")


class ErrorAnswer(BaseModel):
    """An error, in OpenAI's shape."""

    error: Error


class Usage(BaseModel):
    """How many tokens it took."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count


class Message(BaseModel):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    function_call: dict[str, Any] | None = None


class ChatChoice(BaseModel):
    """One of the answers."""

    index: Count
    message: Message
    logprobs: dict[str, Any] | None
    finish_reason: Reason


class ChatCompletion(BaseModel):
    """An answer in a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: Count
    model: str
    choices: Annotated[list[ChatChoice], Field(min_length=1)]
    usage: Usage


class TextChoice(BaseModel):
    """One of the texts."""

    index: Count
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Reason


class Completion(BaseModel):
    """A completed text."""

    id: str
    object: Literal["text_completion"]
    created: Count
    model: str
    choices: Annotated[list[TextChoice], Field(min_length=1)]
    usage: Usage


class VectorUsage(BaseModel):
    """How many tokens it took."""

    prompt_tokens: Count
    total_tokens: Count


class Vector(BaseModel):
    """A text's vector: numbers, or the base64 of float32s."""

    object: Literal["embedding"]
    index: Count
    embedding: list[float] | list[list[float]] | str


class EmbeddingList(BaseModel):
    """Texts as vectors."""

    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: VectorUsage


class Ranked(BaseModel):
    """A document's place."""

    index: Count
    relevance_score: float
    document: dict[str, Any] | None = None


class Ranking(BaseModel):
    """Documents, the best first."""

    object: Literal["list"]
    results: list[Ranked]
    model: str
    usage: VectorUsage


class Piece(BaseModel):
    """A token and its text; its bytes where they are a part of a character."""

    id: Count
    piece: str | list[int]


class Tokens(BaseModel):
    """Token ids, or tokens with their texts."""

    tokens: list[Count] | list[Piece]


class Content(BaseModel):
    """A text."""

    content: str


class ModelEntry(BaseModel):
    """A model."""

    id: str
    object: Literal["model"]
    created: Count
    owned_by: str
    aliases: list[str]
    state: Literal["loaded", "loading", "unloaded", "failed"]
    meta: dict[str, Any] | None = Field(description="Facts, once it has been loaded.")


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"]
    data: list[ModelEntry]


class Health(BaseModel):
    """How the server is."""

    status: Literal["ok", "degraded", "loading", "stopping", "failed"]
    queue_full: list[str] | None = None
    failed: list[str] | None = None
