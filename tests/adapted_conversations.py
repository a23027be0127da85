"""What llama.cpp's common/chat makes of a conversation before a template sees it.

Templates differ in what they can be given; `common_chat_templates_apply` finds out, and adapts the
conversation. To compare engines, the reference is given the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["adapted_messages", "adapted_tools"]


def adapted_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """The tools, each with a description and parameters; None instead of an empty list."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool["function"]["name"],
                "description": tool["function"].get("description", ""),
                "parameters": tool["function"].get("parameters", {}),
            },
        }
        for tool in tools or ()
    ] or None


def adapted_messages(
    messages: Sequence[Mapping[str, Any]], source: str, capabilities: Mapping[str, bool]
) -> list[dict[str, Any]]:
    """The messages for a template with this text and these capabilities."""
    only_text = (
        capabilities["supports_string_content"] and not capabilities["supports_typed_content"]
    )
    only_parts = (
        capabilities["supports_typed_content"] and not capabilities["supports_string_content"]
    )
    adapted: list[dict[str, Any]] = []
    for given in messages:
        message = {key: value for key, value in given.items() if value not in (None, [])}
        content = message.get("content", "")
        if only_text and isinstance(content, list):
            content = "\n".join(part["text"] for part in content)
        elif only_parts and isinstance(content, str):
            content = [{"type": "text", "text": content}]
        message["content"] = content
        if message["role"] == "developer" and "<|channel|>" not in source:
            message["role"] = "system"
        if "tool_calls" in message:
            as_object = capabilities["supports_object_arguments"]
            message["tool_calls"] = [_call(call, as_object) for call in message["tool_calls"]]
        adapted.append(message)
    if not capabilities["supports_system_role"] and adapted[0]["role"] == "system":
        system = adapted.pop(0)
        if adapted:
            adapted[0]["content"] = f"{system['content']}\n{adapted[0]['content']}"
    return adapted


def _call(call: Mapping[str, Any], as_object: bool) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    if isinstance(arguments, str) and as_object:
        arguments = json.loads(arguments)
    elif not isinstance(arguments, str) and not as_object:
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {"name": call["function"]["name"], "arguments": arguments}
    return {"type": "function", "function": function, "id": call["id"]}
