"""Tools in a conversation: who may be called, how, and what is streamed of it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from llamacffi import Llama
from llamacffi.errors import ParameterError, TemplateError
from tests.chats import CALLED, chat, joined, message_of, stream, without_ids
from tests.conversations import CALL, SUNNY, SYSTEM, USER, assistant, tool, user

PLACE = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city"],
    "additionalProperties": False,
}
COLOUR = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^(red|blue)$"}},
    "required": ["name"],
    "additionalProperties": False,
}
WEATHER = tool("get_weather", "Get the weather of a place.", PLACE)
PAINT = tool("paint", "Paint the wall.", COLOUR)
SCHEMAS = {"get_weather": PLACE, "paint": COLOUR}
CALLING: dict[str, Any] = {"tools": [WEATHER, PAINT], "max_tokens": 60}
WEATHER_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
PAINT_CALL = '<tool_call>\n{"name": "paint", "arguments": {"name": "red"}}\n</tool_call>'


class Writing:
    """A logits processor: the model begins with this text, and goes on as it likes."""

    def __init__(self, llama: Llama, text: str) -> None:
        self._tokens = llama.model.vocab.tokenize(text, add_special=False, parse_special=True)

    def begin(self, prompt: Any) -> None:
        self._start = len(prompt)

    def __call__(self, tokens: Any, logits: Any) -> None:
        place = len(tokens) - self._start
        if place < len(self._tokens):
            logits[:] = -float("inf")
            logits[self._tokens[place]] = 0


def calls_of(message: dict[str, Any]) -> list[tuple[str, Any]]:
    """The calls of a message, each valid."""
    found = []
    for call in message["tool_calls"]:
        name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
        jsonschema.validate(arguments, SCHEMAS[name])
        found.append((name, arguments))
    return found


@pytest.mark.parametrize(
    "choice",
    [None, "auto", "none", "required", CALLED, {"name": "paint"}, {"function": {"name": "paint"}}],
    ids=repr,
)
def test_the_choice(llama: Llama, choice: Any) -> None:
    parameters = {**CALLING, "tool_choice": choice, "parallel_tool_calls": False}
    whole = chat(llama, [USER], **parameters)["choices"][0]
    streamed = joined(stream(llama, [USER], **parameters))
    assert without_ids(streamed) == without_ids(whole)
    message = whole["message"]
    if choice in (None, "auto", "none"):
        assert choice != "none" or "tool_calls" not in message
        return
    assert whole["finish_reason"] == "tool_calls"
    assert message["content"] is None
    names = {name for name, _ in calls_of(message)}
    if choice != "required":
        assert names == {"get_weather" if choice is CALLED else "paint"}
    assert len({call["id"] for call in message["tool_calls"]}) == len(message["tool_calls"])


def test_required_calls_are_valid_whatever_the_model_wants(llama: Llama) -> None:
    for seed in range(2):
        random = {"temperature": 3.0, "seed": seed, "parallel_tool_calls": False}
        result = chat(llama, **CALLING, tool_choice="required", **random)
        if result["choices"][0]["finish_reason"] != "length":
            assert calls_of(message_of(result))


@pytest.mark.parametrize("parallel", [True, False])
def test_several_calls(llama: Llama, parallel: bool) -> None:
    written = Writing(llama, f"I look. {WEATHER_CALL}\n{PAINT_CALL if parallel else ''}")
    parameters = {
        **CALLING,
        "logits_processor": written,
        "parallel_tool_calls": parallel,
        "max_tokens": 100,
    }
    whole = chat(llama, [USER], **parameters)
    message = message_of(whole)
    assert message["content"].strip() == "I look."
    wanted = [("get_weather", {"city": "Oslo"}), ("paint", {"name": "red"})]
    assert calls_of(message)[:2] == (wanted if parallel else wanted[:1])
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    streamed = joined(stream(llama, [USER], **parameters))
    assert without_ids(streamed) == without_ids(whole["choices"][0])


def test_one_call_ends_the_answer(llama: Llama) -> None:
    """Where there may be no second one, nothing is generated behind it."""
    parameters = {**CALLING, "tool_choice": "required", "parallel_tool_calls": False}
    result = chat(llama, [USER], **parameters)
    assert len(calls_of(message_of(result))) == 1
    assert result["usage"]["completion_tokens"] < 60


def test_a_call_is_held_to_its_schema_from_its_beginning(llama: Llama) -> None:
    written = Writing(llama, '<tool_call>\n{"name": "')
    message = message_of(chat(llama, [USER], **CALLING, logits_processor=written))
    assert calls_of(message)


@pytest.mark.parametrize("length", [5, 14, 17, 20, 23, 26])
def test_a_call_that_is_cut(llama: Llama, length: int) -> None:
    written = Writing(llama, WEATHER_CALL)
    parameters = {**CALLING, "logits_processor": written, "max_tokens": length}
    whole = chat(llama, [USER], **parameters)["choices"][0]
    assert whole["finish_reason"] == "length"
    for call in whole["message"].get("tool_calls", ()):
        assert call["function"]["name"] == "get_weather"
        assert '{"city": "Oslo"}'.startswith(call["function"]["arguments"].rstrip())
    streamed = joined(stream(llama, [USER], **parameters))
    assert without_ids(streamed) == without_ids(whole)


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_tools_and_a_response_format(llama: Llama, choice: str) -> None:
    """A call, or an answer of that format."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    parameters = {**CALLING, "response_format": wanted, "tool_choice": choice}
    whole = chat(llama, [USER], **parameters)["choices"][0]
    message = whole["message"]
    if "tool_calls" in message:
        assert choice == "auto"
        assert calls_of(message)
    else:
        assert isinstance(json.loads(message["content"])["ok"], bool)
    streamed = joined(stream(llama, [USER], **parameters))
    assert without_ids(streamed) == without_ids(whole)


def test_the_old_names(llama: Llama) -> None:
    functions = [WEATHER["function"], PAINT["function"]]
    old = chat(
        llama,
        [USER],
        functions=functions,
        function_call={"name": "paint"},
        max_tokens=60,
        parallel_tool_calls=False,
    )
    assert [name for name, _ in calls_of(message_of(old))] == ["paint"]
    assert "tool_calls" not in message_of(chat(llama, functions=functions, function_call="none"))


def test_results_in_the_history(llama: Llama) -> None:
    history = [SYSTEM, USER, CALL, SUNNY]
    prompt = llama.template.render(history, [WEATHER])
    assert "Sunny, 21 °C" in prompt.text
    result = chat(llama, history, tools=[WEATHER], max_tokens=4)
    assert result["usage"]["prompt_tokens"] == len(prompt.tokens(llama.model.vocab))
    answer = message_of(chat(llama, [USER], **CALLING, tool_choice=CALLED))
    again = [USER, answer, {"role": "tool", "content": "x", "tool_call_id": "y"}]
    assert chat(llama, again, tools=[WEATHER], max_tokens=2)


def test_a_grammar_beside_tools(llama: Llama) -> None:
    with pytest.raises(ParameterError, match="grammar"):
        chat(llama, [USER], **CALLING, grammar="root ::= [a]")


@pytest.mark.parametrize(
    "tools",
    [
        "get_weather", [7], [{}], [{"type": "function"}], [WEATHER, WEATHER], {"a": 1},
        [{"type": "function", "function": {"name": ""}}],
        [{"type": "function", "function": {"name": "f", "parameters": 7}}],
    ],
    ids=repr,
)  # fmt: skip
def test_tools_that_are_none(llama: Llama, tools: Any) -> None:
    with pytest.raises(TemplateError, match="tool"):
        chat(llama, tools=tools)


def test_a_choice_that_is_not_offered(llama: Llama) -> None:
    with pytest.raises(TemplateError, match=r"nothing.*get_weather"):
        chat(llama, **CALLING, tool_choice={"function": {"name": "nothing"}})
    assert "tool_calls" not in message_of(chat(llama, tools=[], tool_choice="none"))


def test_schemas_that_cannot_be_enforced_still_lead_to_a_call(llama: Llama) -> None:
    odd = tool(
        "odd",
        "Do.",
        {
            "type": "object",
            "properties": {"a": {"enum": ["x"]}, "b": {"not": {"type": "null"}, "type": "integer"}},
            "required": ["a"],
        },
    )
    message = message_of(chat(llama, tools=[odd], tool_choice="required", max_tokens=60))
    assert json.loads(message["tool_calls"][0]["function"]["arguments"])["a"] == "x"


def test_a_template_of_another_form(llama: Llama, upstream: Any) -> None:
    """Its grammar is made for its own form of calls, which is not SmolLM2's."""
    path = upstream / "models/templates"
    for name in ("meta-llama-Llama-3.1-8B-Instruct", "Qwen3-Coder", "GLM-4.6"):
        with Llama(
            llama.model_path, backend="cpu", n_ctx=1024, n_threads=1,
            chat_format=path / f"{name}.jinja",
        ) as other:  # fmt: skip
            history = [user("Hi"), assistant("Hello."), USER]
            result = chat(
                other, history, **CALLING, tool_choice=CALLED, parallel_tool_calls=False,
                enable_thinking=False,
            )  # fmt: skip
            # The tokens may not do for the whole call, but for its beginning.
            (call,) = message_of(result)["tool_calls"]
            assert call["function"]["name"] == "get_weather"
