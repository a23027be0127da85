"""Plain Python functions as tools: their description for the model, and their calls."""

from __future__ import annotations

import dataclasses
import enum
import functools
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
_ARGUMENT = re.compile(r"^(\s*)\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what OpenAI allows
_MISSING = object()


def tool_of(function: Callable[..., Any]) -> dict[str, Any]:
    """OpenAI's description of a function, from its name, signature and docstring.

    Args:
        function: A function, method, `functools.partial` or other callable. Its parameters may be
            annotated with str, int, float, bool, None, list, tuple, dict, Literal, an Enum,
            unions of these, or pydantic models; without an annotation they take anything. The
            docstring's first paragraph describes it, and an "Args:" section in Google's style its
            parameters.

    Returns:
        `{"type": "function", "function": {"name", "description", "parameters"}}`.

    Raises:
        ParameterError: It has no name, is asynchronous, or has a parameter that no model could
            fill in.
    """
    name = _name(function)
    plain = _plain_function(function)
    if not _NAME.fullmatch(name):
        raise ParameterError(
            f"{name} cannot be a tool: a model calls it by a name of letters, digits, _ and -. "
            "Write it as a function with `def`."
        )
    if any(check(plain) for check in (inspect.iscoroutinefunction, inspect.isasyncgenfunction)):
        raise ParameterError(
            f"{name} cannot be a tool: it is asynchronous, and a ChatSession does not await. Give "
            "a plain function, such as one that calls asyncio.run."
        )
    if inspect.isgeneratorfunction(plain):
        raise ParameterError(f"{name} cannot be a tool: it is a generator. Return a list.")
    hints = _hints(name, plain)
    text = inspect.getdoc(plain) or ""
    described = dict(_described(text))
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in _parameters(name, function):
        schema = _schema(f"{name}({parameter.name})", hints.get(parameter.name, Any))
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
    name = _name(function)
    try:
        given = json.loads(arguments or "{}")
        if not isinstance(given, dict):
            raise ValueError(f"the arguments are no object: {arguments:.100}")
        hints = _hints(name, _plain_function(function))
        result = function(**{key: _value(key, hints.get(key, Any), given[key]) for key in given})
        return result if isinstance(result, str) else json.dumps(result, default=_jsonable)
    except Exception as error:
        _log.warning("the tool %s failed with %s", name, arguments, exc_info=True)
        return f"Error: {type(error).__name__}: {error}"


# -- what a callable is -----------------------------------------------------------------------


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _plain_function(function: Any) -> Any:
    """What has the annotations and the docstring."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if inspect.isroutine(function) or isinstance(function, type):
        return function
    return type(function).__call__


def _hints(name: str, plain: Any) -> dict[str, Any]:
    target = inspect.getattr_static(plain, "__init__") if isinstance(plain, type) else plain
    try:
        return typing.get_type_hints(target, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise ParameterError(
            f"{name} cannot be a tool: its annotations cannot be looked up ({error}). Define what "
            "they name at the top of a module."
        ) from None


def _parameters(name: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"{name} cannot be a tool: {error}. Wrap it in a function with `def`."
        ) from None
    for parameter in found:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ParameterError(
                f"{name} cannot be a tool: a model names its arguments, and {parameter.name} is "
                "positional only."
            )
    filled = function.keywords if isinstance(function, functools.partial) else {}
    collecting = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p for p in found if p.kind not in collecting and p.name not in filled]


def _described(text: str) -> list[tuple[str, str]]:
    """(name, description) of the parameters in a docstring's "Args:"."""
    section = re.search(r"^\s*Args:\s*\n(.*?)(?:^\S|\Z)", text, re.S | re.M)
    entries: list[tuple[str, str]] = []
    margin = None
    for line in section[1].splitlines() if section else ():
        match = _ARGUMENT.match(line)
        if match and margin in (None, match[1]):  # what is indented further goes on
            margin = match[1]
            entries.append((match[2], match[3].strip()))
        elif entries and line.strip():
            entries[-1] = (entries[-1][0], f"{entries[-1][1]} {line.strip()}".strip())
    return entries


# -- from annotations to schemas, and from JSON to values -----------------------------------------


def _schema(where: str, hint: Any) -> dict[str, Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        note = next((text for text in inner[1:] if isinstance(text, str)), None)
        return {**_schema(where, inner[0]), **({"description": note} if note else {})}
    if isinstance(hint, type) and hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if hint is None:
        return {"type": "null"}
    if hint is Any:
        return {}
    if origin is typing.Literal:
        return {"enum": list(inner)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(where, option) for option in inner]}
    if hint in (list, Sequence, tuple) or origin in (list, Sequence):
        return {"type": "array", **({"items": _schema(where, inner[0])} if inner else {})}
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return {"type": "array", "items": _schema(where, inner[0])}
    if (hint in (dict, Mapping) or origin in (dict, Mapping)) and (not inner or inner[0] is str):
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
        "list, dict with str as keys, Literal, an Enum, a union of these, or a pydantic model."
    )


def _value(where: str, hint: Any, value: Any) -> Any:
    """What JSON gave, as the annotation wants it; ValueError if it is something else."""
    found = _converted(where, hint, value)
    if found is _MISSING:
        name = getattr(hint, "__name__", None) if isinstance(hint, type) else None
        raise ValueError(f"{where} is {value!r:.100}; it should be {name or hint}")
    return found


def _converted(where: str, hint: Any, value: Any) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _converted(where, inner[0], value)
    if hint is Any:
        return value
    if hint is None or (isinstance(hint, type) and hint in _PLAIN):
        return _scalar(hint, value)
    if origin is typing.Literal:
        same = [option for option in inner if type(option) is type(value) and option == value]
        return same[0] if same else _MISSING
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(where, inner, value)
    if hint in (list, Sequence, tuple) or origin in (list, Sequence, tuple):
        if not isinstance(value, list):
            return _MISSING
        items = [_value(f"{where}[{i}]", inner[0] if inner else Any, item)
                 for i, item in enumerate(value)]  # fmt: skip
        return tuple(items) if tuple in (hint, origin) else items
    if hint in (dict, Mapping) or origin in (dict, Mapping):
        if not isinstance(value, dict):
            return _MISSING
        return {key: _value(f"{where}[{key!r}]", inner[1] if inner else Any, item)
                for key, item in value.items()}  # fmt: skip
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return next((member for member in hint if member.value == value), _MISSING)
    validate = getattr(hint, "model_validate", None)
    return value if validate is None else validate(value)


def _first_that_fits(where: str, options: Sequence[Any], value: Any) -> Any:
    for option in options:
        try:
            found = _converted(where, option, value)
        except ValueError:
            continue
        if found is not _MISSING:
            return found
    return _MISSING


def _scalar(hint: Any, value: Any) -> Any:
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is float and type(value) is int:
        return float(value)
    fits = value is None if hint in (None, type(None)) else type(value) is hint
    return value if fits else _MISSING


def _jsonable(value: Any) -> Any:
    """What JSON can hold of a result that it cannot hold itself."""
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):
        return dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return list(value)
    return str(value)
