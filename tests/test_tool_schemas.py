"""What holds the arguments of a call: each tool's own schema, whatever it looks like."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llamacffi.answer import parser_of
from llamacffi.templates import RenderOptions, choose_template, find_template
from llamacffi.templates.tool_schemas import enforceable_tool
from tests import gbnf
from tests.conversations import FLOATS, NOTHING, NOW, SEARCH, WEATHER, tool, user
from tests.test_json_schema import REFUSED, REWRITTEN

REQUIRED = RenderOptions(tool_choice="required")
NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
TREE = tool("tree", "Plant.", {"$ref": "#/$defs/node", "$defs": {"node": NODE}})
LIST = tool(
    "list",
    "Write.",
    {
        "type": "object",
        "properties": {"first": {"$ref": "#/$defs/node"}},
        "required": ["first"],
        "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
    },
)
TOOLS = [WEATHER, SEARCH, TREE, LIST, NOTHING]


def parameters_of(described: Any) -> Any:
    return described["function"]["parameters"] or {"type": "object"}


def calls(tools: list[Any], count: int = 30) -> list[tuple[str, Any]]:
    """Random calls that the grammar of Hermes' format allows."""
    prompt = find_template("chatml").render([user("Hi")], tools, REQUIRED)
    assert prompt.grammar is not None
    rules = gbnf.Grammar(prompt.grammar.text)
    parse = parser_of(find_template("chatml"), prompt)
    assert parse is not None
    found = []
    for seed in range(count):
        text = rules.generate(random.Random(seed), budget=40)
        message = parse(text.removeprefix(prompt.grammar.prefix), False)
        for call in message["tool_calls"]:
            function = call["function"]
            found.append((function["name"], json.loads(function["arguments"])))
    return found


def test_each_tool_has_its_own_schema() -> None:
    schemas = {t["function"]["name"]: parameters_of(t) for t in TOOLS}
    found = calls(TOOLS)
    assert {name for name, _ in found} == set(schemas)
    for name, arguments in found:
        jsonschema.validate(arguments, schemas[name])


def test_references_of_one_name_in_two_tools() -> None:
    for name, arguments in calls([TREE, LIST]):
        kind = dict if name == "tree" else list
        inner = arguments.get("next") if name == "tree" else arguments["first"]
        assert inner is None or isinstance(inner, kind)


@pytest.mark.parametrize("name", [name for name in REWRITTEN if not name.startswith("draft")])
def test_schemas_that_can_be_enforced(name: str) -> None:
    inner = REWRITTEN[name][0]
    if not isinstance(inner, dict) or "$defs" in inner or "definitions" in inner:
        pytest.skip("the references would lead elsewhere")
    schema = {"type": "object", "properties": {"x": inner}, "required": ["x"]}
    for _, arguments in calls([tool("f", "Do.", schema)], count=5):
        assert set(arguments) == {"x"}
        jsonschema.validate(arguments, schema)


@pytest.mark.parametrize(
    "schema", [schema for schema, _ in REFUSED if isinstance(schema, dict)], ids=repr
)
def test_schemas_that_cannot_be_enforced(schema: dict[str, Any]) -> None:
    """The call happens all the same, with any arguments."""
    for _, arguments in calls([tool("f", "Do.", schema)], count=3):
        assert isinstance(arguments, dict)


def test_what_can_be_enforced_still_is() -> None:
    schema = {
        "type": "object",
        "properties": {
            "odd": {"type": "array", "uniqueItems": True},
            "city": {"enum": ["Oslo", "Rome"]},
        },
        "required": ["odd", "city", "more"],
    }
    for _, arguments in calls([tool("f", "Do.", schema)]):
        assert set(arguments) == {"odd", "city"}
        assert isinstance(arguments["odd"], list)
        assert arguments["city"] in ("Oslo", "Rome")


@pytest.mark.parametrize("name", ["Qwen3-Coder", "GLM-4.6", "MiniMax-M2"])
def test_formats_with_a_tag_for_each_parameter(upstream: Path, name: str) -> None:
    """Each parameter has a place in them, those too that cannot be enforced."""
    odd = tool("odd", "Do.", {"type": "object", "properties": {"x": {"not": {"type": "null"}}}})
    template = choose_template({}, upstream / "models/templates" / f"{name}.jinja")
    prompt = template.render([user("Hi")], [WEATHER, SEARCH, FLOATS, odd], REQUIRED)
    assert prompt.grammar is not None
    for described in (WEATHER, SEARCH, FLOATS, odd):
        for parameter in parameters_of(described)["properties"]:
            assert f"-arg-{parameter}" in prompt.grammar.text


def test_the_tool_itself_is_left_alone() -> None:
    before = json.dumps(SEARCH)
    described = enforceable_tool(NOW | {"function": {**NOW["function"], "parameters": {}}}, 0)
    enforceable_tool(SEARCH, 0)
    assert json.dumps(SEARCH) == before
    assert described["function"]["parameters"]["type"] == "object"
