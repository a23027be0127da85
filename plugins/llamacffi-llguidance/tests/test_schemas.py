"""JSON schemas: what is written follows them, and what cannot be enforced is refused."""

from __future__ import annotations

import json
import time
import types
from typing import Any

import jsonschema
import pytest

from llamacffi import SamplerChain
from llamacffi.errors import GrammarError, ParameterError, SchemaError

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colour": {"enum": ["red", "green", "blue"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3},
    },
    "required": ["name", "age", "colour", "tags"],
    "additionalProperties": False,
}
ADDRESS = {"$ref": "#/$defs/address", "$defs": {"address": {
    "type": "object", "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
    "required": ["zip"], "additionalProperties": False,
}}}  # fmt: skip
SCHEMAS: list[Any] = [
    PERSON,
    ADDRESS,
    {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False},
    {"anyOf": [{"type": "integer", "multipleOf": 7}, {"const": {"a": [1, None]}}]},
    {"oneOf": [{"type": "boolean"}, {"type": "string", "format": "date"}]},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1},
    {"type": "object", "patternProperties": {"^x_": {"type": "number", "exclusiveMinimum": 0}},
     "additionalProperties": False},
    {"type": ["number", "null"], "maximum": 2.5},
    {"type": "object", "properties": {"not": {"type": "boolean"}}, "required": ["not"]},
]  # fmt: skip


def test_complete_through_the_public_door(llama, create):
    processor = create(llama.model.vocab, json_schema=PERSON)
    for prompt in ("A person as JSON: ", "Somebody else: "):  # the same processor twice
        result = llama.create_completion(
            prompt, max_tokens=120, temperature=0, logits_processor=processor
        )
        assert result["choices"][0]["finish_reason"] == "stop"
        text = result["choices"][0]["text"]
        jsonschema.validate(json.loads(text), PERSON)
        assert text == json.dumps(json.loads(text), ensure_ascii=False)


def test_in_a_chain_by_name(model):
    chain = SamplerChain(model, [("llguidance", {"json_schema": PERSON}), "greedy"])
    prompt = tokens = model.vocab.tokenize("Answer in JSON: ")
    with model.context(n_ctx=256, n_threads=1) as context:
        chain.accept_prompt(prompt)
        context.decode_tokens(prompt)
        for position in range(len(prompt), 200):
            token = chain.sample(context, tokens=tokens)
            if model.vocab.is_eog(token):
                break
            tokens = [*tokens, token]
            context.decode_token(token, position)
    text = model.vocab.detokenize(tokens[len(prompt) :])
    jsonschema.validate(json.loads(text), PERSON)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_chosen_is_valid(model, create, wander, schema, seed):
    text = wander(create(model.vocab, json_schema=schema), seed)
    checker = jsonschema.FormatChecker()
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(text))


@pytest.mark.parametrize(
    "given", [True, "true", "{}", {}, types.MappingProxyType({"type": "null"})]
)
def test_forms_of_a_schema(model, create, wander, given):
    json.loads(wander(create(model.vocab, json_schema=given), 3, most=2000))


def test_properties_come_in_the_schema_s_order_and_others_may_follow(model, create, wander):
    schema = {"properties": {"b": {"const": 1}, "a": {"const": 2}}, "required": ["a", "b"]}
    processor = create(model.vocab, json_schema={"type": "object", **schema})
    assert wander(processor, 0).startswith('{"b": 1, "a": 2')


def test_spacing_can_be_chosen(model, create, wander):
    schema = {"const": {"a": [1, 2]}, "x-guidance": {"item_separator": ",", "key_separator": ":"}}
    assert wander(create(model.vocab, json_schema=schema), 0) == '{"a":[1,2]}'


OLD = {"$schema": "http://json-schema.org/draft-07/schema#"}
EMPTY = {"type": "array", "items": {"minimum": 1}}


@pytest.mark.parametrize(
    ("schema", "keyword", "place"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems", "#"),
        ({"properties": {"a/b": {"not": {}}}}, "not", "#/properties/a~1b"),
        ({"anyOf": [{}, {"if": {}}]}, "if", "#/anyOf/1"),
        ({"$defs": {"x": {"unevaluatedProperties": False}}}, "unevaluatedProperties", "#/$defs/x"),
        ({**OLD, "items": {"dependentRequired": {}}}, "dependentRequired", "#/items"),
        ({"$ref": "#/parts/0", "parts": [{"contains": {}}]}, "contains", "#/parts/0"),
        ({"additionalProperties": {"divisibleBy": 2}}, "divisibleBy", "#/additionalProperties"),
        ({**OLD, "prefixItems": [{}]}, "prefixItems", "#"),
        ({"prefixItems": [{}], "additionalItems": False}, "prefixItems", "#"),
        ({"items": {"enum": [1, [2**53 + 1]]}}, "enum", "#/items"),
        ({"minimum": -(2**60)}, "minimum", "#"),
        ({"format": "unknown"}, "format", "#"),
        ({"multipleOf": 123456789}, "multipleOf", "#"),
        ({"multipleOf": 65536000}, "multipleOf", "#"),
        ({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}, "multipleOf", "#/allOf/0"),
        ({"x-guidance": {"lenient": True}, "uniqueItems": True}, "lenient", "#/x-guidance"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name_and_place(
    model, create, schema, keyword, place
):
    with pytest.raises(SchemaError) as caught:
        create(model.vocab, json_schema=schema)
    assert f"'{keyword}' at {place} " in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ('{"type": ', "line 1 column 10"),
        ("[]", "give an object"),
        (5, "give an object"),
        (False, "allows no value"),
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "string", "format": "regex"}, "Unknown format: regex"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "Unsatisfiable"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, "oneOf"),
        ({"$ref": "#/nowhere"}, "'/nowhere' does not exist"),
        ({"$ref": "http://example.com/schema"}, "http://example.com/schema"),
        ({"$ref": "#"}, "no text"),
        ({"x-guidance": {"spaces": 3}}, "unknown field `spaces`"),
        ({"const": float("nan")}, "not JSON"),
        ('{"const": 1e999}', "not JSON"),
        ({"const": object()}, "object"),
    ],
)
def test_errors_say_what_is_wrong(model, create, schema, words):
    with pytest.raises(SchemaError) as caught:
        create(model.vocab, json_schema=schema)
    assert words in str(caught.value)
    assert "<non-verbose/>" not in str(caught.value)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        nested(300),
        nested(100_000),
        '{"items":' * 100_000 + "{}" + "}" * 100_000,
        {"properties": {f"p{i}": {"type": "integer"} for i in range(20_000)}, "type": "object"},
        {"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {}}} for j in "abcd"]} for i in "0123456"
                   "789"]},
        {"const": "a" * 1_000_000},
        {"maxLength": 10**30},
        {"properties": {f"p{i}": {"multipleOf": i + 2} for i in range(5_000)}},
        "9" * 100_000,
    ],
    ids=["deep", "deeper", "deep text", "wide", "product", "long", "number", "multiples", "digits"],
)  # fmt: skip
def test_hostile_schemas_end_soon(model, create, schema):
    started = time.monotonic()
    with pytest.raises(GrammarError):
        create(model.vocab, json_schema=schema)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("keyword", ["maxLength", "minLength", "maxItems", "minItems"])
def test_huge_counts_are_no_problem(model, create, allowed, keyword):
    kind = "string" if "Length" in keyword else "array"
    processor = create(model.vocab, json_schema={"type": kind, keyword: 10**9})
    assert allowed(processor, [1])


def test_exactly_one_format(model, create):
    for given in ({}, {"regex": "a", "lark": "start: /a/"}):
        with pytest.raises(ParameterError, match="exactly one"):
            create(model.vocab, **given)
