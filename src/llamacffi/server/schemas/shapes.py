"""Shapes inside of requests: described here, and checked where they are used, with better words."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import WithJsonSchema

__all__ = ["Message", "Modality", "ResponseFormat", "StreamOptions", "Tool"]

_TEXT = {"type": "string"}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


_PART = _object(("type", "text"), type={"const": "text"}, text=_TEXT)
_CONTENT = {"anyOf": [_TEXT, {"type": "array", "items": _PART}]}
_CALL = _object(
    ("function",),
    id=_TEXT,
    type={"const": "function"},
    function=_object(
        ("name", "arguments"),
        name=_TEXT,
        arguments={"type": "string", "description": "A JSON object.", "pattern": r"^\{.*\}$"},
    ),
)
_ROLES = ["system", "developer", "user", "assistant", "tool"]
_MESSAGE = {
    "anyOf": [
        _object(
            ("role", "content"),
            role={"enum": _ROLES},
            content=_CONTENT,
            reasoning_content=_TEXT,
            tool_call_id=_TEXT,
            name=_TEXT,
        ),
        _object(
            ("role", "tool_calls"),
            role={"const": "assistant"},
            content={"anyOf": [_CONTENT, {"type": "null"}]},
            tool_calls={"type": "array", "items": _CALL, "minItems": 1},
        ),
    ]
}
_FUNCTION = _object(
    ("name",),
    name={"type": "string", "minLength": 1},
    description=_TEXT,
    parameters=_object(type={"const": "object"}, properties={"type": "object"}),
)
_SCHEMA = {"type": "object", "description": "A JSON schema."}

Message = Annotated[dict[str, Any], WithJsonSchema(_MESSAGE)]
Tool = Annotated[
    dict[str, Any],
    WithJsonSchema(
        _object(("type", "function"), type={"const": "function"}, function=_FUNCTION),
    ),
]
StreamOptions = Annotated[
    dict[str, Any], WithJsonSchema(_object(include_usage={"type": "boolean"}))
]
ResponseFormat = Annotated[
    dict[str, Any],
    WithJsonSchema({
        "anyOf": [
            _object(("type",), type={"enum": ["text", "json_object"]}),
            _object(
                ("type", "json_schema"),
                type={"const": "json_schema"},
                json_schema=_object(("schema",), name=_TEXT, schema=_SCHEMA),
            ),
        ]
    }),
]  # fmt: skip
Modality = Annotated[str, WithJsonSchema({"const": "text"})]
