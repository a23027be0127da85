"""The tools of a session: functions that it calls, and descriptions of what others call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llamacffi.chat.functions import call, tool_of
from llamacffi.errors import ParameterError, TemplateError
from llamacffi.templates.messages import checked_tools

__all__ = ["Tools"]

NOT_DONE = "Error: the call was stopped before it was done."


class Tools:
    """Functions and descriptions of tools.

    Args:
        given: Python functions, or OpenAI's descriptions.

    Attributes:
        described: All of them in OpenAI's shape.
        functions: Those that can be called, by name.

    Raises:
        ParameterError: Something that can be no tool, or two of one name.
    """

    def __init__(self, given: Sequence[Callable[..., Any] | Mapping[str, Any]]) -> None:
        if isinstance(given, str | bytes | Mapping) or callable(given):
            raise ParameterError(f"tools={given!r:.80}: give a list of functions.")
        shaped = [tool_of(tool) if callable(tool) else tool for tool in given]
        try:
            self.described = checked_tools(shaped)
        except TemplateError as error:
            raise ParameterError(str(error)) from None
        self.functions = {
            shape["function"]["name"]: tool
            for shape, tool in zip(self.described, given, strict=True)
            if callable(tool)
        }

    def results(self, calls: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Call the functions among these; the messages with what they returned, one by one."""
        names = [shape["function"]["name"] for shape in self.described]
        for one in calls:
            name, arguments = one["function"]["name"], one["function"]["arguments"]
            if name in self.functions:
                yield _result(one, call(self.functions[name], arguments))
            elif name not in names:
                known = ", ".join(names)
                yield _result(one, f"Error: there is no tool {name!r:.100}; there are {known}.")

    def missing(
        self, calls: Sequence[Mapping[str, Any]], messages: Sequence[Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Messages for the calls that were stopped, so that none stays without a result."""
        done = {message.get("tool_call_id") for message in messages}
        for one in calls:
            if one["id"] not in done and one["function"]["name"] in self.functions:
                yield _result(one, NOT_DONE)


def _result(one: Mapping[str, Any], content: str) -> dict[str, Any]:
    name = one["function"]["name"]
    return {"role": "tool", "tool_call_id": one["id"], "name": name, "content": content}
