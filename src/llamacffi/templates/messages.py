"""Checking conversations before they reach a template: OpenAI's messages and tools."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from llamacffi.errors import TemplateError

__all__ = ["checked_messages", "checked_tools", "text_of"]

MAX_DEPTH = 60  # of nested lists and dictionaries; the engine's own limit is the stack


def checked_messages(messages: Iterable[Any]) -> list[dict[str, Any]]:
    """The messages as plain dictionaries.

    Args:
        messages: Mappings, or objects with `model_dump` such as those of the openai package.

    Raises:
        TemplateError: There is none, or one is not a message; says which, and why.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        raise TemplateError(f"messages={messages!r:.100}: give a list of messages.")
    checked = [_message(index, message) for index, message in enumerate(messages)]
    if not checked:
        raise TemplateError("There are no messages: give at least one.")
    return checked


def checked_tools(tools: Iterable[Any]) -> list[dict[str, Any]]:
    """The tools as plain dictionaries, each with a name, a description and parameters.

    Raises:
        TemplateError: One is not OpenAI's description of a function; says which, and why.
    """
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Iterable):
        raise TemplateError(f"tools={tools!r:.100}: give a list of tools.")
    checked: list[dict[str, Any]] = []
    for index, given in enumerate(tools):
        tool = _plain(f"tools[{index}]", given)
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, Mapping):
            raise TemplateError(
                f'tools[{index}] is {given!r:.200}: give {{"type": "function", "function": '
                '{"name": ..., "description": ..., "parameters": {...}}}.'
            )
        name, parameters = function.get("name"), function.get("parameters") or {}
        if not isinstance(name, str) or not name or len(name) > 256:
            raise TemplateError(f"tools[{index}] has the name {name!r:.100}: give it a short name.")
        if not isinstance(parameters, Mapping):
            raise TemplateError(f"The tool {name!r} has parameters that are no JSON schema.")
        if not isinstance(function.get("description") or "", str):
            raise TemplateError(f"The tool {name!r} has a description that is no text.")
        described = {**function, "description": function.get("description") or ""}
        checked.append({**tool, "function": {**described, "parameters": parameters}})
    names = [tool["function"]["name"] for tool in checked]
    if len(set(names)) < len(names):
        raise TemplateError(f"Two tools have one name: {', '.join(names)}.")
    return checked


def text_of(content: Any) -> str:
    """A message's content as one text: parts are joined, None is empty."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part["text"] for part in content)


def _message(index: int, given: Any) -> dict[str, Any]:
    where = f"messages[{index}]"
    message = {key: value for key, value in _plain(where, given).items() if value is not None}
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise TemplateError(f"{where} is {given!r:.200}: it needs a role, such as 'user'.")
    calls = message.get("tool_calls")
    if calls is not None:
        message["tool_calls"] = _calls(where, calls)
        if not calls:
            del message["tool_calls"]
    content = message.get("content")
    if content is None and not message.get("tool_calls"):
        raise TemplateError(f"{where} has the role {role!r} and no content: give it a text.")
    if content is not None and not isinstance(content, str):
        message["content"] = _parts(where, content)
    for name in ("reasoning_content", "name", "tool_call_id"):
        if not isinstance(message.get(name, ""), str):
            raise TemplateError(f"{where} has a {name} that is no text: {message[name]!r:.100}.")
    return message


def _parts(where: str, content: Any) -> list[dict[str, str]]:
    if not isinstance(content, list | tuple):
        raise TemplateError(f"{where} has the content {content!r:.100}: give a text or a list.")
    parts: list[dict[str, str]] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            raise TemplateError(
                f"{where} has a content part of type {kind!r}; only text is supported."
            )
        if not isinstance(part.get("text"), str):
            raise TemplateError(f"{where} has a content part without a text: {part!r:.100}.")
        parts.append({"type": "text", "text": part["text"]})
    return parts


def _calls(where: str, calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list | tuple):
        raise TemplateError(f"{where} has tool_calls that are no list: {calls!r:.100}.")
    checked: list[dict[str, Any]] = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise TemplateError(
                f'{where} has a tool call {call!r:.200}: give {{"id": ..., "type": "function", '
                '"function": {"name": ..., "arguments": "{...}"}}.'
            )
        arguments = function.get("arguments")
        arguments = "{}" if arguments in (None, "") else arguments
        if isinstance(arguments, str):
            arguments = _json_of(where, arguments)
        if not isinstance(arguments, Mapping):
            raise TemplateError(f"{where} has a tool call whose arguments are no JSON object.")
        named = {"name": function["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
        checked.append({**call, "type": "function", "function": named})
    return checked


def _json_of(where: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise TemplateError(
            f"{where} has a tool call whose arguments are no JSON: {text!r:.200}."
        ) from None
    _check_depth(where, value)
    return value


def _plain(where: str, given: Any) -> dict[str, Any]:
    """A dictionary of what JSON can hold."""
    dump = getattr(given, "model_dump", None)
    if dump is not None:
        given = dump(exclude_none=True)
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise TemplateError(f"{where} is {given!r:.200}: give a dictionary.")
    _check_depth(where, given)
    return dict(given)


def _check_depth(where: str, value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for outer in level
            for item in (
                outer.values()
                if isinstance(outer, Mapping)
                else outer
                if isinstance(outer, list | tuple)
                else ()
            )
        ]
        if not level:
            return
    raise TemplateError(f"{where} nests more than {MAX_DEPTH} levels deep.")
