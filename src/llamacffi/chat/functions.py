"""Plain Python functions as tools: their description for the model, and their calls."""

from __future__ import annotations

import enum
import inspect
import json
import logging
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llamacffi.errors import ParameterError

__all__ = ["call", "tool_of"]

_log = logging.getLogger("llamacffi.chat")
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_ARGUMENT = re.compile(r"^\s*\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.+)$")


def tool_of(function: Callable[..., Any]) -> dict[str, Any]:
    """OpenAI's description of a function, from its name, signature and docstring.

    Args:
        function: Its parameters need annotations: str, int, float, bool, None, list, dict, Literal,
            an Enum, unions of these, or pydantic models. The docstring's first
            paragraph describes it, and an "Args:" section in Google's style its parameters.

    Returns:
        `{"type": "function", "function": {"name", "description", "parameters"}}`.

    Raises:
        ParameterError: A parameter that no model could fill in.
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        hints = typing.get_type_hints(function)
        parameters = inspect.signature(function).parameters.values()
    except (NameError, TypeError, ValueError) as error:
        raise ParameterError(f"{name} cannot be a tool: {error}.") from None
    text = inspect.getdoc(function) or ""
    described = dict(_described(text))
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ParameterError(
                f"{name} cannot be a tool: a model names its arguments, and {parameter.name} is "
                "positional only."
            )
        schema = _schema(f"{name}({parameter.name})", hints.get(parameter.name, str))
        if parameter.name in described:
            schema = {**schema, "description": described[parameter.name]}
        properties[parameter.name] = schema
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": text.split("\n\n")[0].replace("\n", " "),
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": False,
            },
        },
    }


def call(function: Callable[..., Any], arguments: str) -> str:
    """Call a function with arguments as JSON text.

    Returns:
        What it returned as text, JSON if it is no string; or what went wrong, for the model to
        read. An error is logged with its traceback.
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        given = json.loads(arguments or "{}")
        hints = typing.get_type_hints(function)
        values = {key: _value(hints.get(key), value) for key, value in given.items()}
        result = function(**values)
        return result if isinstance(result, str) else json.dumps(result, default=str)
    except Exception as error:
        _log.warning("the tool %s failed with %s", name, arguments, exc_info=True)
        return f"Error: {type(error).__name__}: {error}"


def _described(text: str) -> list[tuple[str, str]]:
    """(name, description) of the parameters in a docstring's "Args:"."""
    section = re.search(r"^\s*Args:\s*\n(.*?)(?:^\s*\w+:\s*$|\Z)", text, re.S | re.M)
    entries: list[tuple[str, str]] = []
    for line in section[1].splitlines() if section else ():
        match = _ARGUMENT.match(line)
        if match:
            entries.append((match[1], match[2].strip()))
        elif entries and line.strip():
            entries[-1] = (entries[-1][0], f"{entries[-1][1]} {line.strip()}")
    return entries


def _schema(where: str, hint: Any) -> dict[str, Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        note = next((text for text in inner[1:] if isinstance(text, str)), None)
        return {**_schema(where, inner[0]), **({"description": note} if note else {})}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if hint is Any:
        return {}
    if origin is typing.Literal:
        return {"enum": list(inner)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(where, option) for option in inner]}
    if hint in (list, Sequence, tuple) or origin in (list, Sequence):
        return {"type": "array", **({"items": _schema(where, inner[0])} if inner else {})}
    if hint in (dict, Mapping) or origin in (dict, Mapping):
        values = {"additionalProperties": _schema(where, inner[1])} if inner else {}
        return {"type": "object", **values}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    describe = getattr(hint, "model_json_schema", None)
    if describe is not None:
        schema: dict[str, Any] = describe()
        return schema
    raise ParameterError(
        f"{where} is annotated {hint!r}, which a model cannot fill in. Use str, int, float, bool, "
        "list, dict, Literal, an Enum, a union of these, or a pydantic model."
    )


def _value(hint: Any, value: Any) -> Any:
    """What JSON gave, as the annotation wants it."""
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    validate = getattr(hint, "model_validate", None)
    return value if validate is None else validate(value)
