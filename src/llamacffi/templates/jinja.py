"""Jinja templates, as GGUF files carry them, rendered by llama.cpp's own engine."""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llamacffi.backends import AUTO, choose
from llamacffi.errors import TemplateError
from llamacffi.native.library import Library
from llamacffi.sampling.grammar import Grammar, without_surrogates
from llamacffi.sampling.thinking import Thinking
from llamacffi.templates.messages import checked_messages, checked_tools
from llamacffi.templates.template import (
    DEFAULT,
    AnswerParser,
    Message,
    Prompt,
    RenderOptions,
    Template,
    Tool,
)
from llamacffi.templates.tool_schemas import enforceable_tool

__all__ = ["JinjaTemplate"]

MAX_SOURCE_BYTES = 1 << 20
MAX_OPENED = 4  # the same text with other BOS and EOS tokens


class JinjaTemplate(Template):
    """A chat template in Jinja, with Hugging Face's variables (common/chat of llama.cpp).

    Rendering is bounded in time, memory and nesting, and reaches nothing but its variables, so a
    template out of an untrusted file can do no harm but to its own prompt.

    Args:
        name: What it is called.
        source: The Jinja text, or a function that returns it when it is needed.
        stops: Strings that end an answer, besides the model's own end tokens.
        description: One line.
        tool_source: Another text, for conversations with tools.
    """

    def __init__(
        self,
        name: str,
        source: str | Callable[[], str],
        stops: Sequence[str] = (),
        description: str = "",
        tool_source: str | None = None,
    ) -> None:
        self.name = name
        self.description = description
        self._source = source
        self._tool_source = tool_source
        self._stops = tuple(stops)
        self._opened: dict[tuple[str, str, str], Any] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"JinjaTemplate({self.name!r})"

    @property
    def source(self) -> str:
        """The Jinja text."""
        return self._source if isinstance(self._source, str) else self._source()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        options: RenderOptions = DEFAULT,
    ) -> Prompt:
        """See Template.

        Raises:
            TemplateError: The template does not parse, refuses the conversation, or reaches a
                limit; or the conversation is no such.
        """
        conversation, given = checked_messages(messages), checked_tools(tools)
        # Without a choice of tools the engine does not look into their schemas, which may be
        # anything; all of upstream's templates make the same prompt of it.
        shown = replace(options, tool_choice="none") if given else options
        held = rendered = self._rendered(conversation, given, shown)
        if given and options.tool_choice != "none":
            # The grammar is made of schemas that the converter can be trusted with; the prompt
            # shows them as they are.
            offered = [tool for tool in given if options.tool_choice in (*_ANY, _name(tool))]
            if not offered:
                raise TemplateError(
                    f"tool_choice names {options.tool_choice!r}; the tools are "
                    f"{', '.join(map(_name, given))}."
                )
            enforceable = [enforceable_tool(tool, index) for index, tool in enumerate(offered)]
            held = self._rendered(conversation, enforceable, options)
        return Prompt(
            _parts(rendered["prompt"], rendered["input"]),
            stops=(*self._stops, *rendered["stops"]),
            grammar=_grammar(held, options),
            spelled=tuple(held["preserved_tokens"]),
            thinking=_thinking(held),
            parser=_parser(held) if given or held["supports_thinking"] else None,
        )

    def capabilities(self, options: RenderOptions = DEFAULT) -> dict[str, bool]:
        """What the template can express, such as "supports_tools" (common_chat_templates_get_caps).

        Raises:
            TemplateError: It does not parse.
        """
        with self._lock:
            return dict(self._call("capabilities", self._open(options, tools=False)))

    def _rendered(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        options: RenderOptions,
    ) -> dict[str, Any]:
        choice = options.tool_choice
        request = {
            "messages": messages,
            "tools": tools,
            "tool_choice": choice if choice in ("auto", "none") else "required",
            "parallel_tool_calls": options.parallel_tool_calls,
            "add_generation_prompt": options.add_generation_prompt,
            "enable_thinking": options.enable_thinking,
            "json_schema": options.json_schema,
            # The engine leaves it undefined where it is false, which some templates take for true.
            "variables": {"add_generation_prompt": False, **options.variables}
            if not options.add_generation_prompt
            else dict(options.variables),
        }
        if not tools:
            request["tool_choice"] = "none"
        try:
            described = json.dumps(request).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise TemplateError(f"The conversation cannot be written as JSON: {error}.") from None
        with self._lock:
            opened = self._open(options, bool(tools))
            return self._call("render", opened, described)

    def _open(self, options: RenderOptions, tools: bool) -> Any:
        source = self._tool_source if tools and self._tool_source else self.source
        key = source, options.bos_token, options.eos_token
        opened = self._opened.get(key)
        if opened is None:
            library = _library()
            texts = [_encoded(text) for text in key]
            if len(texts[0]) > MAX_SOURCE_BYTES or any(b"\0" in text for text in texts):
                raise TemplateError(
                    f"The template {self.name!r} has {len(texts[0])} bytes, or a NUL among them: "
                    f"that is none. At most {MAX_SOURCE_BYTES} are read."
                )
            error = library.new_error()
            pointer = library.lib.llamacffi_template_open(*texts, error)
            if not pointer:
                raise TemplateError(
                    f"The template {self.name!r} does not parse: {library.message(error)}"
                )
            opened = library.ffi.gc(pointer, library.lib.llamacffi_template_close)
            while len(self._opened) >= MAX_OPENED:
                del self._opened[next(iter(self._opened))]
            self._opened[key] = opened
        return opened

    def _call(self, what: str, *arguments: Any) -> dict[str, Any]:
        library = _library()
        error = library.new_error()
        function = getattr(library.lib, f"llamacffi_template_{what}")
        text = function(*arguments, error)
        if not text:
            library.log.drain()
            raise TemplateError(
                f"The template {self.name!r} cannot render this conversation: "
                f"{_reason(library.message(error))}"
            )
        return _taken(library, text)


_ANY = ("auto", "required")


@functools.cache
def _library() -> Library:
    """Any library: they all have the same engine, and it needs no device."""
    return choose(AUTO)


def _name(tool: Mapping[str, Any]) -> str:
    return str(tool["function"]["name"])


def _reason(message: str) -> str:
    """What a template's raise_exception said, or all of the engine's message."""
    lines = message.splitlines()
    return next((line for line in lines if line.startswith("Error: ")), message)


def _parts(prompt: str, ranges: Sequence[Sequence[int]]) -> tuple[tuple[str, bool], ...]:
    """Cut at byte offsets: what lies in the ranges is not trusted, whole characters of it."""
    data, place = prompt.encode(), 0
    parts: list[tuple[str, bool]] = []
    for start, end in ranges:
        while start > place and _inside_character(data, start):
            start -= 1
        start = max(start, place)
        while _inside_character(data, end):
            end += 1
        parts += [(data[place:start].decode(), True), (data[start:end].decode(), False)]
        place = end
    parts.append((data[place:].decode(), True))
    return tuple(part for part in parts if part[0])


def _encoded(text: str) -> bytes:
    """UTF-8, which has no lone surrogates."""
    return text.encode(errors="replace")


def _inside_character(data: bytes, offset: int) -> bool:
    return data[offset : offset + 1] != b"" and data[offset] & 0xC0 == 0x80


def _grammar(rendered: Mapping[str, Any], options: RenderOptions) -> Grammar | None:
    text = without_surrogates(rendered["grammar"])
    if not text:
        return None
    if options.tool_choice not in ("auto", "none"):
        text = _without_preamble(text)
    if not options.parallel_tool_calls:
        # Upstream's rule for one tag around each call repeats it all the same.
        text = re.sub(r"^(tool-calls ::= \(tool-call\?? space\))\+$", r"\1", text, flags=re.M)
    if not rendered["grammar_lazy"]:
        return Grammar(text, prefix=rendered["generation_prompt"])
    triggers = rendered["grammar_triggers"]
    words = [t["value"] for t in triggers if t["type"] == "word"]
    patterns = [t["value"] for t in triggers if t["type"].startswith("pattern")]
    return Grammar(
        text,
        trigger_words=tuple(words),
        trigger_patterns=tuple(patterns),
        thinking=_thinking(rendered),
    )


def _without_preamble(grammar: str) -> str:
    """Let a call that is required begin at once: upstream allows any text before it.

    A model that does not think of calling would otherwise talk until its tokens are used up.
    """
    return re.sub(
        r"^(root ::= .*?)until-\d+\??(?: space)? (tool-call[\w-]*)$", r"\1\2", grammar, flags=re.M
    )


def _thinking(rendered: Mapping[str, Any]) -> Thinking | None:
    start, ends = rendered["thinking_start"], tuple(rendered["thinking_ends"])
    if not rendered["supports_thinking"] or not ends:
        return None
    prompt = rendered["generation_prompt"].rstrip()
    begun = not start or prompt.endswith(start.rstrip())
    return Thinking(start, ends, begun)


def _parser(rendered: Mapping[str, Any]) -> AnswerParser:
    library = _library()
    error = library.new_error()
    pointer = library.lib.llamacffi_parser_open(
        rendered["parser"].encode(),
        rendered["format"],
        rendered["generation_prompt"].encode(),
        error,
    )
    library.check(error, "Opening the parser of answers")
    opened = library.ffi.gc(pointer, library.lib.llamacffi_parser_close)

    def parse(text: str, partial: bool) -> dict[str, Any]:
        data = _encoded(text)
        error = library.new_error()
        message = library.lib.llamacffi_parser_parse(opened, data, len(data), partial, error)
        if not message:
            library.log.drain()
            raise TemplateError(
                f"The answer is not of the template's form: {library.message(error)}"
            )
        return _taken(library, message)

    return parse


def _taken(library: Any, text: Any) -> dict[str, Any]:
    """The value of a JSON text that the library returned, which is freed."""
    try:
        value: dict[str, Any] = json.loads(library.ffi.string(text))
        return value
    finally:
        library.lib.llamacffi_free(text)
