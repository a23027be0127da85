"""An answer in a chat: from text that is being generated to a message, as a whole or in pieces."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from llamacffi.errors import TemplateError
from llamacffi.templates.template import AnswerParser, Prompt, Template

__all__ = ["Answer", "parser_of"]

_TEXTS = ("reasoning_content", "content")
# The whole text is parsed each time. A long one is parsed again when it has grown by this part:
# calls, which take ten times as long to parse and which nobody reads as they come, more seldom.
_TEXT_GROWTH, _CALL_GROWTH = 1 / 1024, 1 / 128


def parser_of(template: Template, prompt: Prompt) -> AnswerParser | None:
    """What parses the answers to a prompt; None where the text is the content."""
    if prompt.parser is not None:
        return prompt.parser
    return None if type(template).parse is Template.parse else template.parse


class Answer:
    """One answer, while its text arrives.

    Args:
        parse: Turns the text into a message; None where the text is the content.
        n_calls_max: Most tool calls that are taken; more are dropped.
    """

    def __init__(self, parse: AnswerParser | None, n_calls_max: int | None = None) -> None:
        self._parse = parse
        self._n_calls_max = n_calls_max
        self.text = ""
        self._n_parsed = 0
        self._shown: dict[str, str] = dict.fromkeys(_TEXTS, "")
        self._ids: list[str] = []
        self._shown_arguments: list[str] = []

    def push(self, text: str) -> dict[str, Any]:
        """Add text.

        Returns:
            What it brings, as the `delta` of OpenAI's chunks; empty if that is not clear yet.
        """
        if not text:
            return {}
        self.text += text
        if self._parse is None:
            return {"content": text}
        growth = _CALL_GROWTH if self._shown_arguments else _TEXT_GROWTH
        if len(self.text) - self._n_parsed < int(len(self.text) * growth):
            return {}
        self._n_parsed = len(self.text)
        try:
            message = self._parse(self.text, True)
        except TemplateError:
            return {}  # it may get clear later; at the end it is a text in any case
        return self._difference(message, final=False)

    def finish(self, cut: bool) -> dict[str, Any]:
        """End the text.

        Args:
            cut: It ended for want of room, and may be incomplete.

        Returns:
            What is left to show, as push.
        """
        return {} if self._parse is None else self._difference(self.message(cut), final=True)

    def message(self, cut: bool) -> dict[str, Any]:
        """The whole answer as an OpenAI message; `cut` as in finish."""
        found = self._parsed(cut)
        message: dict[str, Any] = {"role": "assistant", "content": found.get("content") or ""}
        if found.get("reasoning_content"):
            message["reasoning_content"] = found["reasoning_content"]
        calls = self._calls(found)
        if calls:
            message["content"] = message["content"] or None
            message["tool_calls"] = calls
        return message

    def _parsed(self, cut: bool) -> Mapping[str, Any]:
        if self._parse is None:
            return {"content": self.text}
        for partial in (True,) if cut else (False, True):
            try:
                found = self._parse(self.text, partial)
            except TemplateError:
                continue
            # Of a text that breaks its own form, the engine's partial message may be empty.
            if cut or not partial or any(found.get(key) for key in (*_TEXTS, "tool_calls")):
                return found
        return {"content": self.text}  # not of the template's form: a text, at least

    def _calls(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        calls = message.get("tool_calls") or []
        shaped: list[dict[str, Any]] = []
        for index, call in enumerate(calls[: self._n_calls_max]):
            if index == len(self._ids):
                self._ids.append(call.get("id") or f"call_{secrets.token_hex(12)}")
            function = call["function"]
            described = {
                "name": function["name"],
                "arguments": function.get("arguments") or "{}",
            }
            shaped.append({"id": self._ids[index], "type": "function", "function": described})
        return shaped

    def _difference(self, message: Mapping[str, Any], final: bool) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        for key in _TEXTS:
            text, shown = message.get(key) or "", self._shown[key]
            # A parser may take back white space at the end; what was shown stays shown.
            if len(text) > len(shown) and text.startswith(shown):
                delta[key] = text[len(shown) :]
                self._shown[key] = text
        pieces = self._call_pieces(message, final)
        if pieces:
            delta["tool_calls"] = pieces
        return delta

    def _call_pieces(self, message: Mapping[str, Any], final: bool) -> list[dict[str, Any]]:
        raw = (message.get("tool_calls") or [])[: self._n_calls_max]
        pieces: list[dict[str, Any]] = []
        for index, call in enumerate(raw):
            arguments = call["function"].get("arguments") or ""
            last = index == len(raw) - 1
            if index < len(self._shown_arguments):
                shown = self._shown_arguments[index]
                if len(arguments) > len(shown) and arguments.startswith(shown):
                    self._shown_arguments[index] = arguments
                    added = {"arguments": arguments[len(shown) :]}
                    pieces.append({"index": index, "function": added})
            elif arguments or final or not last:  # until then, the name may still grow
                shaped = self._calls({"tool_calls": raw[: index + 1]})[index]
                shaped["function"]["arguments"] = arguments or ("{}" if final else "")
                self._shown_arguments.append(shaped["function"]["arguments"])
                pieces.append({"index": index, **shaped})
        return pieces
