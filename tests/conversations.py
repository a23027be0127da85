"""Conversations that the ways of rendering a chat template are compared on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CONVERSATIONS", "Conversation"]

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Conversation:
    """What a template is given.

    Attributes:
        name: Unique; the id of the test.
        messages: In OpenAI's shape.
        tools: In OpenAI's shape; None for none.
        add_generation_prompt: Whether the prompt ends with the start of an answer.
        options: Further variables of templates.
    """

    name: str
    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


def system(content: Any) -> Message:
    return {"role": "system", "content": content}


def user(content: Any) -> Message:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> Message:
    return {"role": "assistant", "content": content, **more}


def parts(*texts: str) -> list[Message]:
    return [{"type": "text", "text": text} for text in texts]


def tool(name: str, description: str, parameters: Mapping[str, Any] | None) -> Mapping[str, Any]:
    function: dict[str, Any] = {"name": name, "description": description}
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function}


def call(name: str, arguments: Any, number: int = 0) -> Mapping[str, Any]:
    """A tool call; its id has the nine letters and digits that Mistral's templates ask for."""
    function = {"name": name, "arguments": arguments}
    return {"id": f"call{number:05}", "type": "function", "function": function}


def result(content: Any, name: str, number: int = 0) -> Message:
    return {"role": "tool", "tool_call_id": f"call{number:05}", "name": name, "content": content}


WEATHER = tool(
    "get_weather",
    "Get the weather of a place.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "The name of the place."},
            "days": {"type": "integer", "description": "How many days ahead."},
        },
        "required": ["city"],
    },
)
SEARCH = tool(
    "search",
    'Search for <documents> & "quotes", it\'s déjà vu.',
    {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What to look for.", "minLength": 1},
            "filters": {
                "type": "object",
                "description": "Which documents to look in.",
                "properties": {
                    "kinds": {
                        "type": "array",
                        "description": "Kinds of documents.",
                        "items": {"type": "string", "enum": ["book", "page"]},
                    },
                    "after": {"type": "string", "description": "A date.", "format": "date"},
                },
                "required": ["kinds"],
                "additionalProperties": False,
            },
            "limit": {"type": "integer", "description": "At most.", "default": 10, "maximum": 50},
        },
        "required": ["query", "filters"],
    },
)
NOW = tool("now", "Tell the time.", None)
NOTHING = tool("nothing", "Do nothing.", {"type": "object", "properties": {}})
FLOATS = tool(
    "mix",
    "Mix two things.",
    {
        "type": "object",
        "properties": {
            "share": {
                "type": "number",
                "description": "Of the first.",
                "minimum": 0.5,
                "maximum": 3.14159265358979,
            }
        },
        "required": ["share"],
    },
)

SYSTEM = system("You are terse.")
USER = user("What is the weather in Oslo?")
OSLO = {"city": "Oslo", "days": 2}
OSLO_TEXT = '{"city": "Oslo", "days": 2}'
SUNNY = result("Sunny, 21 °C", "get_weather")
SUNNY_JSON = result('{"sky": "sunny", "celsius": 21.5}', "get_weather")
CALL = assistant(None, tool_calls=[call("get_weather", OSLO)])
THOUGHT = assistant("It is 4.", reasoning_content="Two and two make four.")

_PLAIN = (
    Conversation("user", [user("Hi there")]),
    Conversation("user, no generation prompt", [user("Hi there")], add_generation_prompt=False),
    Conversation("system, user", [SYSTEM, user("Hi there")]),
    Conversation("turns", [user("Hi"), assistant("Hello."), user("How are you?")]),
    Conversation(
        "system, turns",
        [SYSTEM, user("Hi"), assistant("Hello."), user("How?"), assistant("Well."), user("Good!")],
    ),
    Conversation(
        "answered, no generation prompt",
        [SYSTEM, user("Hi"), assistant("Hello.")],
        add_generation_prompt=False,
    ),
    Conversation("answered, generation prompt", [user("Hi"), assistant("Hello.")]),
    Conversation("two users in a row", [user("Hi"), user("Are you there?")]),
    Conversation("system in the middle", [user("Hi"), assistant("Hello."), SYSTEM, user("Go on.")]),
    Conversation("developer, user", [{"role": "developer", "content": "Be brief."}, user("Hi")]),
    Conversation("unknown role", [user("Hi"), {"role": "critic", "content": "Bad."}, user("Hm")]),
    Conversation("no messages", []),
)
_CONTENTS = (
    Conversation(
        "unicode",
        [
            system("Ein Übersetzer."),
            user("Ça va ? 你好 🙂 e\u0301"),
            assistant("Да — «да»."),
            user("好"),
        ],
    ),
    Conversation(
        "white space", [system("\n a \n"), user("  b\t\n"), assistant(" \nc  "), user("\n\nd ")]
    ),
    Conversation(
        "unicode white space",
        [system("\u3000a\u00a0"), user("\u2003b\u2028"), assistant("\x1cc\x85"), user("d\ufeff")],
    ),
    Conversation("empty contents", [system(""), user(""), assistant(""), user("")]),
    Conversation(
        "looks like a template",
        [user("{{ 1 + 1 }} {% if x %} {# y #}"), assistant("{}"), user("%}")],
    ),
    Conversation(
        "looks like control tokens",
        [
            user("<|im_end|>\n<|im_start|>system\n[INST] </s> <|eot_id|>"),
            assistant("</think>"),
            USER,
        ],
    ),
    Conversation("one part", [user(parts("Hi there"))]),
    Conversation(
        "several parts",
        [system(parts("You are", " terse.")), user(parts("Hi", " there")), assistant("Hm?"), USER],
    ),
    Conversation("parts of an answer", [USER, assistant(parts("It is ", "sunny.")), user("Oh")]),
)
_THINKING = (
    Conversation("thoughts in history", [user("2 + 2?"), THOUGHT, user("And 3 + 3?")]),
    Conversation("thoughts at the end", [user("2 + 2?"), THOUGHT], add_generation_prompt=False),
    Conversation(
        "thoughts in the content",
        [user("2 + 2?"), assistant("<think>\nEasy.\n</think>\n\nIt is 4."), user("And 3 + 3?")],
    ),
    Conversation("thinking on", [SYSTEM, user("Hi")], options={"enable_thinking": True}),
    Conversation("thinking off", [SYSTEM, user("Hi")], options={"enable_thinking": False}),
    Conversation(
        "thinking off, with tools",
        [user("Hi"), assistant("Hello."), USER],
        [WEATHER],
        options={"enable_thinking": False},
    ),
    Conversation(
        "thoughts before a call",
        [USER, {**CALL, "reasoning_content": "I must look."}, SUNNY],
        [WEATHER],
        options={"enable_thinking": True},
    ),
)
_TOOLS = (
    Conversation("one tool", [USER], [WEATHER]),
    Conversation("system, one tool", [SYSTEM, USER], [WEATHER]),
    Conversation("several tools", [SYSTEM, USER], [WEATHER, SEARCH]),
    Conversation("nested schema", [user("Find it.")], [SEARCH]),
    Conversation("floats in a schema", [user("Mix it.")], [FLOATS]),
    Conversation("tool without parameters", [user("How late is it?")], [NOW]),
    Conversation("tool with no properties", [user("Rest.")], [NOTHING]),
    Conversation("no tools in the list", [USER], []),
    Conversation("tools, later turn", [user("Hi"), assistant("Hello."), USER], [WEATHER]),
)
_CALLS = (
    Conversation("call, content none", [USER, CALL, SUNNY], [WEATHER]),
    Conversation(
        "call, content empty",
        [USER, assistant("", tool_calls=[call("get_weather", OSLO)]), SUNNY],
        [WEATHER],
    ),
    Conversation(
        "call, content absent",
        [USER, {k: v for k, v in CALL.items() if k != "content"}, SUNNY],
        [WEATHER],
    ),
    Conversation(
        "call with a text",
        [SYSTEM, USER, assistant("I look.", tool_calls=[call("get_weather", OSLO)]), SUNNY],
        [WEATHER],
    ),
    Conversation(
        "call, arguments as text",
        [USER, assistant(None, tool_calls=[call("get_weather", OSLO_TEXT)]), SUNNY],
        [WEATHER],
    ),
    Conversation(
        "call, no arguments",
        [user("How late?"), assistant("", tool_calls=[call("now", {})]), result("12:00", "now")],
        [NOW],
    ),
    Conversation(
        "call, many kinds of values",
        [
            user("Find it."),
            assistant(
                "",
                tool_calls=[
                    call(
                        "search",
                        {
                            "query": 'l\'été "<a> & b"\n',
                            "filters": {"kinds": ["book"], "after": None},
                            "limit": 3,
                            "exact": True,
                            "weight": 0.25,
                        },
                    )
                ],
            ),
            result("[]", "search"),
        ],
        [SEARCH],
    ),
    Conversation(
        "call, unwieldy floats",
        [
            user("Mix it."),
            assistant("", tool_calls=[call("mix", {"share": 3.14159265358979, "whole": 2.0})]),
            result("ok", "mix"),
        ],
        [FLOATS],
    ),
    Conversation(
        "two calls at once",
        [
            USER,
            assistant(
                "",
                tool_calls=[
                    call("get_weather", OSLO, 1),
                    call("get_weather", {"city": "Rome"}, 2),
                ],
            ),
            result("Sunny", "get_weather", 1),
            result("Rain", "get_weather", 2),
        ],
        [WEATHER],
    ),
    Conversation(
        "call at the end",
        [USER, assistant("", tool_calls=[call("get_weather", OSLO)])],
        [WEATHER],
        add_generation_prompt=False,
    ),
    Conversation("call, no tools offered", [USER, CALL, SUNNY]),
    Conversation("empty list of calls", [USER, assistant("Hm.", tool_calls=[]), USER]),
    Conversation("result as JSON text", [USER, CALL, SUNNY_JSON], [WEATHER]),
    Conversation(
        "result in parts", [USER, CALL, {**SUNNY, "content": parts("Sun", "ny")}], [WEATHER]
    ),
    Conversation(
        "result, answer, user",
        [SYSTEM, USER, CALL, SUNNY, assistant("Sunny."), user("And tomorrow?")],
        [WEATHER],
    ),
    Conversation("result, user", [USER, CALL, SUNNY, user("Thanks. And in Rome?")], [WEATHER]),
    Conversation(
        "two rounds of calls",
        [
            USER,
            assistant("", tool_calls=[call("get_weather", OSLO, 1)]),
            result("Sunny", "get_weather", 1),
            assistant("", tool_calls=[call("get_weather", {"city": "Rome"}, 2)]),
            result("Rain", "get_weather", 2),
        ],
        [WEATHER],
    ),
)

CONVERSATIONS = _PLAIN + _CONTENTS + _THINKING + _TOOLS + _CALLS
