"""A request to /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from llamacffi.server.schemas.base import Int32, Items
from llamacffi.server.schemas.sampling import SampledRequest
from llamacffi.server.schemas.shapes import Message, Modality, Tool

__all__ = ["ChatRequest"]

_EXAMPLE: Any = {"messages": [{"role": "user", "content": "What is a llama?"}], "max_tokens": 64}


class ChatRequest(SampledRequest):
    """Answer in a conversation."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    messages: Items[Message] = Field(
        description="Each with a role and a content: a text, or a list of text parts.",
        json_schema_extra={"minItems": 1},
    )
    max_completion_tokens: Int32 | None = Field(None, description="Most tokens to generate.")
    tools: Items[Tool] | None = Field(None, description="Functions it may call.")
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: Items[dict[str, Any]] | None = Field(None, description="Old name of tools.")
    function_call: str | dict[str, Any] | None = Field(None, description="Old tool_choice.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=100)
    reasoning_effort: str | None = Field(
        None, description="For the template; none for no thoughts."
    )
    reasoning_budget: Int32 | None = Field(
        None, description="Most tokens to think; -1 for any number."
    )
    reasoning_budget_tokens: Int32 | None = Field(None, description="Another name of it.")
    reasoning_budget_message: str | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables for the template; enable_thinking is one."
    )
    modalities: Items[Modality] | None = Field(None, description='Only ["text"].')
    prediction: dict[str, Any] | None = Field(None, description="No effect.")
