"""Requests to /tokenize and /detokenize, in llama-server's shapes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from llamacffi.server.schemas.base import Items, Token

__all__ = ["DetokenizeRequest", "TokenizeRequest"]


class TokenizeRequest(BaseModel):
    """Turn a text into token ids."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"content": "Hello world"}]}
    )

    model: str | None = None
    content: str = Field(description="The text.")
    add_special: bool = Field(False, description="Add BOS and EOS as the model wants them.")
    parse_special: bool = Field(True, description="Read spelled control tokens as such.")
    with_pieces: bool = Field(False, description="Return each token's text, too.")


class DetokenizeRequest(BaseModel):
    """Turn token ids into text."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"tokens": [1, 2, 3]}]}
    )

    model: str | None = None
    tokens: Items[Token]
