"""Answers of models: whole, cut off anywhere, and such as no model should write."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llamacffi.errors import TemplateError
from llamacffi.templates import (
    AnswerParser,
    JinjaTemplate,
    RenderOptions,
    Template,
    choose_template,
    find_template,
)
from tests.hostile_children import in_children, linux

USER = {"role": "user", "content": "Hi"}
ARGUMENTS = {"city": 'Oslo "x" é', "n": 12}
TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "description": "Get it.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "n": {"type": "integer"}},
            "required": ["city", "n"],
        },
    },
}
CALL = {"id": "call12345", "function": {"name": "get", "arguments": json.dumps(ARGUMENTS)}}
CALLING = [
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "assistant", "content": "I look.", "tool_calls": [CALL]},
    {"role": "assistant", "content": "", "reasoning_content": "Hmm.", "tool_calls": [CALL]},
]


@pytest.fixture(scope="module")
def opened(upstream: Path) -> dict[str, Template]:
    """Upstream's templates by name."""
    return {
        path.stem: choose_template({"tokenizer.chat_template": path.read_text(encoding="utf-8")})
        for path in sorted((upstream / "models" / "templates").glob("*.jinja"))
    }


def answers(template: Template) -> Iterator[str]:
    """What the model of a template writes to call a tool."""
    silent = RenderOptions(add_generation_prompt=False)
    for message in CALLING:
        try:
            before = template.render([USER], [TOOL]).text
            after = template.render([USER, message], [TOOL], silent).text
        except TemplateError:
            continue
        if after.startswith(before):
            yield after[len(before) :]


def parsed(parser: AnswerParser, text: str, partial: bool) -> dict[str, Any]:
    try:
        return parser(text, partial)
    except TemplateError:
        return {}


def whole_answer(parser: AnswerParser, text: str) -> str:
    """The text without the marks at its end, that the model's end token or upstream stands for."""
    for end in range(len(text), 0, -1):
        if parsed(parser, text[:end], False).get("tool_calls"):
            return text[:end]
    return ""


def check_grown(before: dict[str, Any], after: dict[str, Any]) -> None:
    for key in ("content", "reasoning_content"):
        assert (after.get(key) or "").startswith(before.get(key) or "")
    old, new = before.get("tool_calls") or [], after.get("tool_calls") or []
    assert len(old) <= len(new)
    for one, two in zip(old, new, strict=False):
        assert two["function"]["name"].startswith(one["function"]["name"])
        assert two["function"]["arguments"].startswith(one["function"]["arguments"])


def test_answers_cut_off_anywhere_only_grow(opened: dict[str, Template]) -> None:
    called = set()
    for name, template in opened.items():
        for written in answers(template):
            parser = template.render([USER], [TOOL]).parser
            assert parser is not None
            text = whole_answer(parser, written)
            if not text:
                continue
            message: dict[str, Any] = {}
            for end in range(len(text) + 1):
                longer = parsed(parser, text[:end], True)
                if longer:
                    check_grown(message, longer)
                    message = longer
            final = parser(text, False)
            check_grown(message, final)
            (call,) = final["tool_calls"]
            assert call["function"]["name"] == "get"
            assert json.loads(call["function"]["arguments"]) == ARGUMENTS, name
            called.add(name)
    assert len(called) > 50


@pytest.mark.parametrize(
    "name", ["Qwen3-Coder", "GLM-4.6", "MiniMax-M2", "ByteDance-Seed-OSS", "Kimi-K2-Instruct"]
)
def test_grammars_have_the_parameters_of_tools(opened: dict[str, Template], name: str) -> None:
    grammar = opened[name].render([USER], [TOOL]).grammar
    assert grammar is not None
    assert "city" in grammar.text


def test_recursive_parameters_of_tools(opened: dict[str, Template]) -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#"}, "x": {"type": "integer"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": node}}
    for name in ("Qwen3-Coder", "Qwen-Qwen2.5-7B-Instruct"):
        prompt = opened[name].render([USER], [tool])
        assert prompt.grammar is not None
        assert "next" in prompt.grammar.text


# -- hostile ones, in children --------------------------------------------------------------------

PARSE = """
import json
from pathlib import Path
from llamacffi.errors import TemplateError
from llamacffi.templates import choose_template, find_template
TOOL = json.loads(Path(SOURCES[0]).read_text())
USER = {"role": "user", "content": "Hi"}
prompts = [find_template("chatml").render([USER], [TOOL])]
for source in SOURCES[1:]:
    template = choose_template({"tokenizer.chat_template": Path(source).read_text()})
    prompts.append(template.render([USER], [TOOL]))
def run(text):
    told = []
    for prompt in prompts:
        for partial in (True, False):
            try:
                message = prompt.parser(text, partial)
                json.dumps(message).encode()
                told.append("message")
            except TemplateError as error:
                assert len(str(error)) < 20_000
                told.append("refused")
    return told
"""
CALLED = '<tool_call>\n{"name": "get", "arguments": {"city": "Oslo", "n": '
TAGGED = "<tool_call>\n<function=get>\n<parameter=city>\n"
HOSTILE = {
    "nothing": "",
    "zeros": "\0" * 1000,
    "zero in a call": CALLED + "\0}}\n</tool_call>",
    "surrogates": "\ud800<think>\udfff</think>" + CALLED + '"\ud83d"}}\n</tool_call>',
    "escaped surrogates": CALLED + '"\\ud800\\ud800\\udfff"}}\n</tool_call>',
    "open lists": CALLED + "[" * 200_000,
    "deep lists": CALLED + "[" * 3000 + "]" * 3000 + "}}\n</tool_call>",
    "open dictionaries": CALLED + '{"a":' * 100_000,
    "deep dictionaries": CALLED + '{"a":' * 3000 + "1" + "}" * 3000 + "}}\n</tool_call>",
    "unterminated text": CALLED + '"' + "x" * 1_000_000,
    "backslashes": CALLED + '"' + "\\" * 300_001,
    "digits": CALLED + "9" * 300_000 + "}}\n</tool_call>",
    "exponents": CALLED + "1e999999999}}\n</tool_call>",
    "many starts": "<tool_call>" * 30_000,
    "many half starts": "<tool_cal" * 30_000,
    "many thoughts": "<think>" * 30_000,
    "many ends of thoughts": "</think>" * 30_000,
    "many calls": (CALLED + "1}}\n</tool_call>\n") * 2000,
    "many less-than signs": "<" * 300_000,
    "one long thought": "<think>" + "x" * 1_000_000,
    "tags": TAGGED * 5000,
    "one long parameter": TAGGED + "<" * 300_000,
    "many parameters": "<tool_call>\n<function=get>\n"
    + "<parameter=city>\nx\n</parameter>\n" * 5000,
    "odd spaces": CALLED + " \t\r\n\x0b\x0c\u2028" * 30_000,
    "not a character": "\uffff\ufffe\U0010ffff<tool_call>\ufeff",
}


@linux
def test_hostile_answers(upstream: Path, tmp_path: Path) -> None:
    tool = tmp_path / "tool.json"
    tool.write_text(json.dumps(TOOL))
    folder = upstream / "models" / "templates"
    names = ("Qwen3-Coder", "GLM-4.6", "meta-llama-Llama-3.1-8B-Instruct", "LFM2.5-8B-A1B")
    sources = [str(tool), *(str(folder / f"{name}.jinja") for name in names)]
    outcomes = in_children(f"SOURCES = {sources!r}\n{PARSE}", HOSTILE, stack_kib=512)
    wrong = {name: o for name, o in outcomes.items() if o.kind != "ok" or o.megabytes > 1500}
    assert wrong == {}


def test_mutated_answers(opened: dict[str, Template]) -> None:
    """In this process: what could kill it is in the tests above."""
    chance = random.Random(0)
    told = {"message": 0, "refused": 0}
    for name in ("Qwen3-Coder", "GLM-4.6", "MiniMax-M3", "Kimi-K2-Thinking", "LFM2.5-8B-A1B"):
        parser = opened[name].render([USER], [TOOL]).parser
        assert parser is not None
        for written in answers(opened[name]):
            for _ in range(60):
                text = list(written)
                for _ in range(chance.randint(1, 3)):
                    start = chance.randrange(len(text))
                    stop = start + chance.randint(0, 12)
                    other = chance.choice(["", "<", '"', "\\", "{", "}", "é", "\0", written[:30]])
                    text[start:stop] = [*other, "x"]
                mutated = "".join(text)
                for partial in (True, False):
                    answer = parsed(parser, mutated, partial)
                    told["message" if answer else "refused"] += 1
                    assert answer.get("role", "assistant") == "assistant"
    assert min(told.values()) > 0


# -- threads ----------------------------------------------------------------------------------


def test_one_template_in_many_threads(opened: dict[str, Template]) -> None:
    templates = [opened["Qwen3-Coder"], opened["Qwen-Qwen3-0.6B"], find_template("chatml")]

    def work(number: int) -> list[Any]:
        found: list[Any] = []
        for template in templates:
            content = {"role": "user", "content": f"I am {number % 4}"}
            prompt = template.render([content], [TOOL])
            assert prompt.parser is not None
            found += [prompt.parts, prompt.parser(CALLED + "1", True)]
            found.append(prompt.parser(f"Hello {number % 4}", False))
        return found

    expected = {number: work(number) for number in range(4)}
    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(work, range(80))):
            assert found == expected[number % 4]


def test_one_parser_in_many_threads() -> None:
    prompt = find_template("chatml").render([USER], [TOOL])
    parser = prompt.parser
    assert parser is not None
    texts = [CALLED + "1}}\n</tool_call>"[:end] for end in range(17)] * 20
    expected = [parser(text, True) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: parser(text, True), texts)) == expected


def test_opening_one_template_in_many_threads() -> None:
    template = JinjaTemplate("x", "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")

    def work(number: int) -> str:
        options = RenderOptions(bos_token=f"<{number % 7}>", eos_token="</s>")
        return template.render([USER], options=options).text

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(80)))
    assert found == [f"<{number % 7}>Hi</s>" for number in range(80)]
