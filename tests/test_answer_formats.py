"""Answers in the formats of many models, cut into pieces: the message is what was meant."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llamacffi.answer import Answer, parser_of
from llamacffi.templates import RenderOptions, Template, choose_template
from tests.chats import joined_deltas
from tests.conversations import OSLO, SEARCH, WEATHER, user

TEMPLATES = "models/templates"
ROME = {"city": "Rome"}
QUERY = {"query": 'a "b" <c> \\ é\n{}', "filters": {"kinds": ["book", "page"]}, "limit": 3}


@dataclass(frozen=True)
class Case:
    """A text that a model may write, and what it says.

    Attributes:
        template: The file's name, without its end.
        text: What the model writes.
        content: Its content.
        reasoning: Its thoughts.
        calls: (name, arguments) of the tools that it calls.
        variables: Further ones of the template.
    """

    template: str
    text: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)


def weather(arguments: Any) -> tuple[str, Any]:
    return "get_weather", arguments


def hermes(name: str, arguments: Any) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def qwen_coder(name: str, *parameters: tuple[str, str]) -> str:
    lines = [f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters]
    return f"<tool_call>\n<function={name}>\n{''.join(lines)}</function>\n</tool_call>"


HERMES_2 = "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use"
HERMES_3 = "NousResearch-Hermes-3-Llama-3.1-8B-tool_use"
LLAMA = "meta-llama-Llama-3.1-8B-Instruct"
NEMO = "mistralai-Mistral-Nemo-Instruct-2407"
COMMAND = "CohereForAI-c4ai-command-r7b-12-2024-tool_use"
GPT_OSS = "openai-gpt-oss-120b"
DEEPSEEK = "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"
QWEN_3 = "Qwen-Qwen3-0.6B"
QWEN_CODER = "Qwen3-Coder"
GLM = "GLM-4.6"
KIMI = "Kimi-K2-Instruct"

CASES = [
    Case(HERMES_2, "Hello\nthere.", "Hello\nthere."),
    Case(HERMES_2, hermes("get_weather", OSLO), calls=(weather(OSLO),)),
    Case(HERMES_2, hermes("search", QUERY), calls=(("search", QUERY),)),
    Case(HERMES_3, f"I look.\n{hermes('get_weather', OSLO)}", "I look.\n", calls=(weather(OSLO),)),
    Case(
        HERMES_3,
        f"{hermes('get_weather', OSLO)}\n{hermes('get_weather', ROME)}",
        calls=(weather(OSLO), weather(ROME)),
    ),
    Case(LLAMA, "Hello <there>.", "Hello <there>."),
    Case(
        LLAMA,
        f'{{"name": "get_weather", "parameters": {json.dumps(OSLO)}}}',
        calls=(weather(OSLO),),
    ),
    Case(NEMO, "Hello [there].", "Hello [there]."),
    Case(
        NEMO,
        f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {json.dumps(OSLO)}, '
        '"id": "123456789"}]',
        calls=(weather(OSLO),),
    ),
    Case(
        NEMO,
        f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {json.dumps(OSLO)}, '
        f'"id": "123456789"}}, {{"name": "search", "arguments": {json.dumps(QUERY)}, '
        '"id": "223456789"}]',
        calls=(weather(OSLO), ("search", QUERY)),
    ),
    Case(
        COMMAND,
        "<|START_THINKING|>Easy.<|END_THINKING|><|START_RESPONSE|>Hello.<|END_RESPONSE|>",
        "Hello.",
        "Easy.",
    ),
    Case(
        COMMAND,
        "<|START_THINKING|>I must look.<|END_THINKING|><|START_ACTION|>[\n    "
        f'{{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {json.dumps(OSLO)}}}\n'
        "]<|END_ACTION|>",
        reasoning="I must look.",
        calls=(weather(OSLO),),
    ),
    Case(
        GPT_OSS,
        "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>"
        "Hello.",
        "Hello.",
        "Easy.",
    ),
    Case(
        GPT_OSS,
        "<|channel|>analysis<|message|>I must\nlook.<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.get_weather <|constrain|>json<|message|>{json.dumps(OSLO)}",
        reasoning="I must\nlook.",
        calls=(weather(OSLO),),
    ),
    Case(DEEPSEEK, "Easy.\n</think>\n\nHello.", "Hello.", "Easy."),
    Case(  # its template offers no tools: they are offered as text
        DEEPSEEK,
        f"I must look.</think>\n\n{hermes('get_weather', OSLO)}",
        reasoning="I must look.",
        calls=(weather(OSLO),),
    ),
    Case(
        "meetkai-functionary-medium-v3.1",
        f"<function=get_weather>{json.dumps(OSLO)}</function>",
        calls=(weather(OSLO),),
    ),
    Case("meetkai-functionary-medium-v3.2", "all\nHello.", "Hello."),
    Case(
        "meetkai-functionary-medium-v3.2",
        f"get_weather\n{json.dumps(OSLO)}",
        calls=(weather(OSLO),),
    ),
    Case(QWEN_3, "<think>\nEasy.\n</think>\n\nHello.", "Hello.", "Easy."),
    Case(QWEN_3, "<think>\n\n</think>\n\nHello <b>.", "Hello <b>."),
    Case(
        QWEN_3,
        f"<think>\nI could {hermes('search', QUERY)}?\n</think>\n\n{hermes('get_weather', OSLO)}",
        reasoning=f"I could {hermes('search', QUERY)}?",
        calls=(weather(OSLO),),
    ),
    Case(QWEN_CODER, "Hello.", "Hello."),
    Case(
        QWEN_CODER,
        qwen_coder("get_weather", ("city", "Oslo"), ("days", "2")),
        calls=(weather(OSLO),),
    ),
    Case(
        QWEN_CODER,
        qwen_coder(
            "search", *((k, v if k == "query" else json.dumps(v)) for k, v in QUERY.items())
        ),
        calls=(("search", QUERY),),
    ),
    Case(
        GLM,
        "\n<think>I must look.</think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n"
        "<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n"
        "</tool_call>",
        reasoning="I must look.",
        calls=(weather(OSLO),),
    ),
    Case(
        KIMI,
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
        f"<|tool_call_argument_begin|>{json.dumps(OSLO)}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
        calls=(weather(OSLO),),
    ),
]


@pytest.fixture(scope="module")
def template_of(upstream: Path) -> Any:
    opened: dict[str, Template] = {}

    def open_(name: str) -> Template:
        if name not in opened:
            opened[name] = choose_template({}, upstream / TEMPLATES / f"{name}.jinja")
        return opened[name]

    return open_


def read(message: dict[str, Any]) -> tuple[str, str, list[tuple[str, Any]]]:
    """Content, thoughts and calls, with the arguments as values."""
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return (
        message["content"] or "",
        message.get("reasoning_content", ""),
        [(call["name"], json.loads(call["arguments"])) for call in calls],
    )


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{i}-{case.template.split('-')[0]}" for i, case in enumerate(CASES)]
)
def test_an_answer_in_pieces(template_of: Any, case: Case) -> None:
    template = template_of(case.template)
    options = RenderOptions(variables=case.variables)
    prompt = template.render([user("What is the weather?")], [WEATHER, SEARCH], options)
    parse = parser_of(template, prompt)
    for width in (1, 2, 3, 5, 8, 13, len(case.text)):
        answer = Answer(parse)
        starts = range(0, len(case.text), width)
        deltas = [answer.push(case.text[start : start + width]) for start in starts]
        deltas.append(answer.finish(cut=False))
        message = answer.message(cut=False)
        content, reasoning, calls = read(message)
        assert (reasoning.strip(), calls) == (case.reasoning, list(case.calls)), width
        assert content.strip() == case.content.strip(), width
        assert joined_deltas(deltas) == message, width


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{i}-{case.template.split('-')[0]}" for i, case in enumerate(CASES)]
)
def test_an_answer_that_was_cut(template_of: Any, case: Case) -> None:
    """Wherever max_tokens ends it: no error, nothing shown that the message does not have."""
    template = template_of(case.template)
    prompt = template.render([user("What is the weather?")], [WEATHER, SEARCH])
    parse = parser_of(template, prompt)
    for end in range(len(case.text)):
        answer = Answer(parse)
        deltas = [answer.push(character) for character in case.text[:end]]
        deltas.append(answer.finish(cut=True))
        message = answer.message(cut=True)
        assert joined_deltas(deltas) == message, case.text[:end]
        assert (message.get("reasoning_content") or "").strip() in case.reasoning
        assert len(message.get("tool_calls", ())) <= len(case.calls)
