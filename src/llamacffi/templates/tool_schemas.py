"""The arguments of tools, described so that llama.cpp's engine can hold a call to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamacffi.errors import SchemaError

__all__ = ["enforceable_tool"]

ANY_ARGUMENTS = {"type": "object"}
_SHARED = ("$schema", "$id", "$defs", "definitions")  # what properties may refer to


def enforceable_tool(tool: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The tool, with a schema of its arguments that can become a grammar.

    What cannot be enforced is left open: the tool gets to see what is wrong.

    Args:
        tool: In OpenAI's shape.
        index: Its place among those that share the grammar.
    """
    given = tool["function"]["parameters"] or ANY_ARGUMENTS
    for parameters in (given, _relaxed(given), ANY_ARGUMENTS):
        described = _prepared(parameters, f"t{index}d")
        if described is not None:
            break
    return {**tool, "function": {**tool["function"], "parameters": described}}


def _prepared(parameters: Any, prefix: str) -> dict[str, Any] | None:
    from llamacffi.sampling.json_schema import prepare  # 5 ms, and not for everyone

    try:
        prepared = prepare(parameters, prefix)
    except SchemaError:
        return None
    # Formats with a tag for each parameter look for properties at the root, and for no reference.
    root = prepared["$defs"][prepared["$ref"].rpartition("/")[2]]
    return {**root, "$defs": prepared["$defs"]}


def _relaxed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The same properties, only their types where their schemas cannot be enforced."""
    properties, required = parameters.get("properties"), parameters.get("required")
    if not isinstance(properties, Mapping):
        return ANY_ARGUMENTS
    shared = {key: parameters[key] for key in _SHARED if key in parameters}

    def kept(name: Any, schema: Any) -> Any:
        kind = {"type": schema["type"]} if isinstance(schema, Mapping) and "type" in schema else {}
        for candidate in (schema, kind):
            alone = {**shared, "type": "object", "properties": {name: candidate}}
            if _prepared(alone, "d") is not None:
                return candidate
        return {}

    return {
        **shared,
        "type": "object",
        "properties": {name: kept(name, schema) for name, schema in properties.items()},
        "required": [
            name
            for name in (required if isinstance(required, list | tuple) else ())
            if name in properties
        ],
    }
