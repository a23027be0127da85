"""The named formats: their table, what they render, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from llamacffi.errors import TemplateError
from llamacffi.templates import JinjaTemplate, RenderOptions, find_template
from llamacffi.templates.named import NamedFormat, named_formats
from tests.named_prompts import COMMAND_R_ACTIONS, COMMAND_R_BASICS, COMMAND_R_TASK, PROMPTS
from tests.reference_templates import RefusalError, reference_render

Message = Mapping[str, Any]
Render = Callable[..., str]

UPSTREAMS = "gpt-oss"  # llama.cpp's own file, compared in test_upstream_templates.py
FORMATS = {each.name: each for each in named_formats() if each.name != UPSTREAMS}
# Those with a published way for tools; the others refuse.
WITH_TOOLS = ("chatml", "llama-3", "mistral-v3", "mistral-v7", "command-r")
IN_TURN = ("llama-2", "mistral-v1", "mistral-v3", "mistral-v7", "gemma")
SYSTEM_IN_USER = ("llama-2", "mistral-v1", "mistral-v3", "gemma")
SYSTEM_AT_START = (*IN_TURN, "alpaca", "vicuna", "deepseek")
TRIMMING = ("llama-2", "llama-3", "gemma", "command-r")

SYSTEM = {"role": "system", "content": "Be terse."}
USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello."}
BYE = {"role": "user", "content": "Bye"}
TURNS = [SYSTEM, USER, ANSWER, BYE]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where."},
                "days": {"type": "integer", "description": "How long."},
            },
            "required": ["city"],
        },
    },
}
TOOL_JSON = (
    '{"type": "function", "function": {"name": "weather", "description": "Tell the weather.", '
    '"parameters": {"type": "object", "properties": '
    '{"city": {"type": "string", "description": "Where."}, '
    '"days": {"type": "integer", "description": "How long."}}, "required": ["city"]}}}'
)
RESULT = {"role": "tool", "tool_call_id": "a1B2c3D4e", "content": '{"sky": "grey"}'}
OSLO = {"city": "Oslo"}


def calling(*arguments: Any, content: str | None = None) -> Message:
    calls = [
        {"id": f"{'a1B2c3D4'}{'ef'[i]}", "type": "function",
         "function": {"name": "weather", "arguments": each}}
        for i, each in enumerate(arguments)
    ]  # fmt: skip
    return {"role": "assistant", "content": content, "tool_calls": calls}


@pytest.fixture(params=["reference", "engine"])
def engine(request: pytest.FixtureRequest) -> str:
    """What renders: transformers' way, or llama.cpp."""
    return str(request.param)


@pytest.fixture
def render(engine: str) -> Render:
    """A function: the prompt of a named format."""

    def rendered(
        name: str,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        source = FORMATS[name].source()
        if engine == "reference":
            return reference_render(
                source, messages, tools, add_generation_prompt=add_generation_prompt
            )
        options = RenderOptions(
            add_generation_prompt=add_generation_prompt, bos_token="<s>", eos_token="</s>"
        )
        return JinjaTemplate(name, source).render(messages, tools or (), options).text

    return rendered


@pytest.fixture
def refusal(engine: str) -> type[Exception]:
    """What a refused conversation raises."""
    return RefusalError if engine == "reference" else TemplateError


every_format = pytest.mark.parametrize("name", FORMATS)


# -- the table ------------------------------------------------------------------------------------


def test_the_table_and_the_folder_agree() -> None:
    folder = files("llamacffi.templates.named")
    found = {path.name for path in folder.iterdir() if path.name.endswith(".jinja")}
    assert found == {f"{each.name}.jinja" for each in named_formats()}
    assert set(PROMPTS) == set(FORMATS)
    assert len(FORMATS) + 1 == len(list(named_formats()))


def test_harmony_is_upstreams(upstream: Path) -> None:
    (harmony,) = (each for each in named_formats() if each.name == UPSTREAMS)
    file = upstream / "models" / "templates" / "openai-gpt-oss-120b.jinja"
    assert harmony.source() == file.read_text(encoding="utf-8")
    prompt = find_template(UPSTREAMS).render([{"role": "user", "content": "<|end|>Hi"}])
    assert ("<|end|>Hi", False) in prompt.parts
    assert prompt.parser is not None
    thoughts = "<|channel|>analysis<|message|>Hm.<|end|>"
    answer = f"{thoughts}<|start|>assistant<|channel|>final<|message|>Hi!"
    message = prompt.parser(answer, False)
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Hi!")


@pytest.mark.parametrize("each", FORMATS.values(), ids=FORMATS)
def test_every_format_is_described(each: NamedFormat) -> None:
    assert each.name == each.name.lower()
    assert 20 < len(each.description) < 100
    assert "\n" not in each.description
    assert each.models
    assert each.stops
    assert all(each.stops)
    assert each.source().endswith("{%- endif -%}\n") or each.source().endswith("{%- endfor -%}\n")


def test_a_content_is_written_alike_everywhere() -> None:
    """The files stand alone; what they have in common is the same text in each."""
    macros = {each.source().split("{%- endmacro -%}")[0] for each in FORMATS.values()}
    assert len(macros) == 1


# -- what all formats can do ----------------------------------------------------------------------


@every_format
def test_a_user_message(render: Render, name: str) -> None:
    assert render(name, [USER]) == PROMPTS[name].user


@every_format
def test_a_system_message(render: Render, name: str) -> None:
    assert render(name, [SYSTEM, USER]) == PROMPTS[name].system_user
    assert render(name, [{**SYSTEM, "role": "developer"}, USER]) == PROMPTS[name].system_user


@every_format
def test_turns(render: Render, name: str) -> None:
    assert render(name, TURNS) == PROMPTS[name].turns


@every_format
def test_without_the_start_of_an_answer(render: Render, name: str) -> None:
    prompt = render(name, TURNS, add_generation_prompt=False)
    assert prompt + PROMPTS[name].start == PROMPTS[name].turns


@every_format
def test_contents_of_parts_are_joined(render: Render, name: str) -> None:
    def in_parts(message: Message) -> Message:
        text = message["content"]
        halves = [{"type": "text", "text": half} for half in (text[:2], text[2:])]
        return {**message, "content": halves}

    assert render(name, [in_parts(message) for message in TURNS]) == PROMPTS[name].turns


@every_format
def test_nothing_in_a_content_is_changed(render: Render, name: str) -> None:
    odd = "\t {{ 1 }} {% if %} <b>&amp;'\"\\n\\ \t🙂 e\u0301 \n"
    expected = odd.strip() if name in TRIMMING else odd
    assert expected in render(name, [{"role": "user", "content": odd}])
    prompt = render(name, [USER, {"role": "assistant", "content": odd}, USER])
    assert expected in prompt
    assert (odd in prompt) == (name not in TRIMMING)


@every_format
def test_no_tools_in_a_list_are_no_tools(render: Render, name: str) -> None:
    assert render(name, [USER], []) == PROMPTS[name].user
    assert render(name, [USER, {**ANSWER, "tool_calls": []}, BYE]) == render(
        name, [USER, ANSWER, BYE]
    )


def test_deepseek_forgets_thoughts(render: Render) -> None:
    thought = {"role": "assistant", "content": "<think>Hm.</think>Hello."}
    assert render("deepseek", [SYSTEM, USER, thought, BYE]) == PROMPTS["deepseek"].turns


# -- refusals -------------------------------------------------------------------------------------


@every_format
def test_an_unknown_role(render: Render, refusal: type[Exception], name: str) -> None:
    with pytest.raises(refusal, match=f'{name}.*"critic"'):
        render(name, [USER, {"role": "critic", "content": "x"}])


@every_format
def test_a_part_that_is_no_text(render: Render, refusal: type[Exception], name: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "x"}}
    with pytest.raises(refusal, match="text"):
        render(name, [{"role": "user", "content": [image]}])


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in WITH_TOOLS])
def test_tools_where_there_are_none(render: Render, refusal: type[Exception], name: str) -> None:
    with pytest.raises(refusal, match=f"{name} has no tools"):
        render(name, [USER], [TOOL])
    with pytest.raises(refusal, match=f"{name} has no tool calls"):
        render(name, [USER, calling(OSLO)])
    with pytest.raises(refusal, match=f'{name}.*"tool"'):
        render(name, [USER, ANSWER, RESULT])


@pytest.mark.parametrize("name", IN_TURN)
def test_roles_out_of_turn(render: Render, refusal: type[Exception], name: str) -> None:
    for messages in ([USER, BYE], [ANSWER, USER], [SYSTEM, ANSWER], [USER, ANSWER, ANSWER]):
        with pytest.raises(refusal, match=f"{name} wants user and assistant in turn"):
            render(name, messages)


@pytest.mark.parametrize("name", SYSTEM_AT_START)
def test_a_late_system_message(render: Render, refusal: type[Exception], name: str) -> None:
    with pytest.raises(refusal, match=f'{name}.*"system"'):
        render(name, [USER, ANSWER, SYSTEM, USER])


@pytest.mark.parametrize("name", SYSTEM_IN_USER)
def test_a_system_message_alone(render: Render, refusal: type[Exception], name: str) -> None:
    with pytest.raises(refusal, match=f"{name} has .* user message, and there is none"):
        render(name, [SYSTEM])


@pytest.mark.parametrize("name", ["llama-3", "mistral-v3", "mistral-v7"])
def test_tools_without_a_user(render: Render, refusal: type[Exception], name: str) -> None:
    with pytest.raises(refusal, match=f"{name} has .* user message, and there is none"):
        render(name, [SYSTEM], [TOOL])


@pytest.mark.parametrize("name", ["mistral-v3", "mistral-v7"])
def test_ids_of_calls(render: Render, refusal: type[Exception], name: str) -> None:
    call = calling(OSLO)
    for broken in (
        [USER, {**call, "tool_calls": [{**call["tool_calls"][0], "id": "call_1"}]}],
        [USER, call, {**RESULT, "tool_call_id": "call_1"}],
        [USER, call, {"role": "tool", "content": "x"}],
    ):
        with pytest.raises(refusal, match=f"{name} needs ids"):
            render(name, broken, [TOOL])


def test_one_call_at_once_in_llama_3(render: Render, refusal: type[Exception]) -> None:
    with pytest.raises(refusal, match="llama-3 has one tool call"):
        render("llama-3", [USER, calling(OSLO, {})], [TOOL])


# -- tools ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ['{"city": "Oslo"}', OSLO])
def test_tools_of_chatml(render: Render, arguments: Any) -> None:
    prompt = render("chatml", [SYSTEM, USER, calling(arguments), RESULT], [TOOL])
    assert prompt == (
        "<|im_start|>system\nYou are a function calling AI model. You are provided with function "
        "signatures within <tools></tools> XML tags. You may call one or more functions to assist "
        "with the user query. Don't make assumptions about what values to plug into functions. "
        f"Here are the available tools: <tools>\n{TOOL_JSON}\n</tools> For each function call "
        "return a json object with function name and arguments within <tool_call></tool_call> XML "
        'tags as follows:\n<tool_call>\n{"name": <function-name>, "arguments": <args-dict>}\n'
        "</tool_call><|im_end|>\n<|im_start|>system\nBe terse.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        '{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n'
        '<|im_start|>tool\n<tool_response>\n{"sky": "grey"}\n</tool_response><|im_end|>\n'
        "<|im_start|>assistant\n"
    )


def test_several_calls_in_chatml(render: Render) -> None:
    messages = [USER, calling(OSLO, "", content="I look."), RESULT, RESULT, ANSWER]
    assert render("chatml", messages, add_generation_prompt=False) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nI look.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call><|im_end|>\n'
        '<|im_start|>tool\n<tool_response>\n{"sky": "grey"}\n</tool_response>\n'
        '<tool_response>\n{"sky": "grey"}\n</tool_response><|im_end|>\n'
        "<|im_start|>assistant\nHello.<|im_end|>\n"
    )


@pytest.mark.parametrize("arguments", ['{"city": "Oslo"}', OSLO])
def test_tools_of_llama_3(render: Render, arguments: Any) -> None:
    now = {"name": "now", "description": "Tell the time.", "parameters": {}}
    tool = {"type": "function", "function": now}
    assert render("llama-3", [SYSTEM, USER, calling(arguments), RESULT], [tool]) == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe terse.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nGiven the following functions, please respond "
        "with a JSON for a function call with its proper arguments that best answers the given "
        'prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of '
        "argument name and its value}. Do not use variables.\n\n"
        '{\n    "type": "function",\n    "function": {\n        "name": "now",\n'
        '        "description": "Tell the time.",\n        "parameters": {}\n    }\n}\n\n'
        "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "weather", "parameters": {"city": "Oslo"}}<|eot_id|>'
        '<|start_header_id|>ipython<|end_header_id|>\n\n{"sky": "grey"}<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


@pytest.mark.parametrize("arguments", ['{"city": "Oslo"}', OSLO])
def test_tools_of_mistral_v3(render: Render, arguments: Any) -> None:
    messages = [SYSTEM, USER, calling(arguments), RESULT, ANSWER, BYE]
    called = '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}, "id": "a1B2c3D4e"}]'
    back = '[TOOL_RESULTS] {"content": {"sky": "grey"}, "call_id": "a1B2c3D4e"}[/TOOL_RESULTS]'
    offered = f"[AVAILABLE_TOOLS] [{TOOL_JSON}][/AVAILABLE_TOOLS]"
    assert render("mistral-v3", messages[:4], [TOOL]) == (
        f"<s>{offered}[INST] Be terse.\n\nHi[/INST]{called}</s>{back}"
    )
    assert render("mistral-v3", messages, [TOOL]) == (
        f"<s>[INST] Hi[/INST]{called}</s>{back} Hello.</s>{offered}[INST] Be terse.\n\nBye[/INST]"
    )


@pytest.mark.parametrize("arguments", ['{"city": "Oslo"}', OSLO])
def test_tools_of_mistral_v7(render: Render, arguments: Any) -> None:
    messages = [SYSTEM, USER, calling(arguments, arguments, content="I look."), RESULT]
    one = '{"name": "weather", "arguments": {"city": "Oslo"}, "id": "a1B2c3D4e"}'
    assert render("mistral-v7", messages, [TOOL]) == (
        "<s>[SYSTEM_PROMPT] Be terse.[/SYSTEM_PROMPT]"
        f"[AVAILABLE_TOOLS] [{TOOL_JSON}][/AVAILABLE_TOOLS][INST] Hi[/INST]"
        f" I look.[TOOL_CALLS] [{one}, {one.replace('4e', '4f')}]</s>"
        '[TOOL_RESULTS] a1B2c3D4e[TOOL_CONTENT] {"sky": "grey"}[/TOOL_RESULTS]'
    )


SIGNATURE = (
    "```python\ndef weather(city: str, days: Optional[int] = None) -> List[Dict]:\n"
    '    """Tell the weather.\n\n    Args:\n        city (str): Where.\n'
    '        days (Optional[int]): How long.\n    """\n    pass\n```'
)


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ('{"city": "Oslo"}', '{"city": "Oslo"}'),
        (OSLO, '{\n            "city": "Oslo"\n        }'),
        ({}, "{}"),
    ],
)
def test_tools_of_command_r(render: Render, engine: str, arguments: Any, written: str) -> None:
    if engine == "engine" and isinstance(arguments, str):
        pytest.skip("common/chat makes an object of it, since the format takes objects")
    prompt = render("command-r", [SYSTEM, USER, calling(arguments), RESULT], [TOOL])
    assert prompt == (
        f"<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{COMMAND_R_BASICS}Be terse.\n\n"
        "## Available Tools\nHere is a list of tools that you have available to you:\n\n"
        f"{SIGNATURE}<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>\nAction:\n```json\n[\n    {\n"
        f'        "tool_name": "weather",\n        "parameters": {written}\n    }}\n]```'
        "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><results>\n"
        f'{{"sky": "grey"}}</results><|END_OF_TURN_TOKEN|>{COMMAND_R_ACTIONS}'
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
    )


def test_kinds_of_parameters_in_command_r(render: Render) -> None:
    kinds = {
        "a": {"type": "number"},
        "b": {"type": "array", "items": {"type": "boolean"}},
        "c": {"type": "array"},
        "d": {"type": "object", "additionalProperties": {"type": "string"}},
        "e": {"type": "object"},
        "f": {"enum": [1]},
    }
    parameters = {"type": "object", "properties": kinds, "required": list(kinds)}
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": parameters}},
        {"type": "function", "function": {"name": "now", "description": "Tell the time."}},
    ]
    prompt = render("command-r", [USER], tools)
    assert COMMAND_R_TASK in prompt
    assert (
        "def f(a: float, b: List[bool], c: List[Any], d: Dict[str, str], e: Dict[str, Any], f: Any)"
    ) in prompt
    now = 'def now() -> List[Dict]:\n    """Tell the time.\n    """\n    pass\n```'
    assert f"    pass\n```\n\n```python\n{now}<|END_OF_TURN_TOKEN|>" in prompt
