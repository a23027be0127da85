"""What the schemas of all requests share."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Int32", "Items", "Number", "Request", "Token"]

T = TypeVar("T")
# One mistake is enough: a million of them would take a gigabyte.
Items = Annotated[list[T], Field(fail_fast=True)]

Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Token = Annotated[int, Field(ge=0, le=2**31 - 1)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Request(BaseModel):
    """A request: a field that is neither known nor one of those below is refused.

    The fields here are accepted and have no effect on an answer: they are about accounts, storage
    and caches of services.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = Field(None, description="One of GET /v1/models; may be left out.")
    user: str | None = Field(None, description="No effect.")
    metadata: dict[str, Any] | None = Field(None, description="No effect.")
    store: bool | None = Field(None, description="No effect: nothing is stored.")
    service_tier: str | None = Field(None, description="No effect.")
    safety_identifier: str | None = Field(None, description="No effect.")
    prompt_cache_key: str | None = Field(None, description="No effect.")
    prompt_cache_retention: str | None = Field(None, description="No effect.")
