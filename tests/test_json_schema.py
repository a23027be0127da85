"""JSON schemas made ready for upstream's converter: what is rewritten, what is refused by name."""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import json
import math
import random
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llamacffi.errors import GrammarError, SchemaError
from llamacffi.sampling.json_schema import prepare, schema_text
from llamacffi.sampling.json_schema.pattern import parse
from llamacffi.sampling.json_schema.strings import FORMATS, MAX_REPEAT, lengths, write
from tests.gbnf import Grammar

STRING = {"type": "string"}
INTEGER = {"type": "integer"}


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    node = {"type": "object", "properties": properties, "additionalProperties": False}
    return node | ({"required": list(required)} if required else {})


def array(*items: Any) -> dict[str, Any]:
    return {"type": "array", "items": list(items)}


def between(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def tagged(tag: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"kind": tag, **properties}, "required": ["kind"]}


def root_of(schema: Any) -> Any:
    prepared = prepare(schema)
    assert prepared["$ref"] == "#/$defs/d0"
    return prepared["$defs"]["d0"]


def refused(schema: Any) -> dict[str, str]:
    """Return the pointers that the error names, and the reasons."""
    with pytest.raises(SchemaError) as info:
        prepare(schema)
    return dict(re.findall(r"(#\S*) \(((?:[^()]|\([^()]*\))*)\)[;.]", str(info.value)))


# -- rewritten ------------------------------------------------------------------------------------

REWRITTEN: dict[str, tuple[Any, Any]] = {
    "anything": (True, {}),
    "annotations": ({"title": "t", "$comment": "c", "x-order": 1, "default": 3}, {}),
    "a type": ({"type": "boolean"}, {"type": "boolean"}),
    "several types": ({"type": ["null", "string"]}, {"anyOf": [STRING, {"type": "null"}]}),
    "number holds integer": ({"type": ["integer", "number"]}, {"type": "number"}),
    "other types' keywords": ({"type": "integer", "minLength": 3, "required": ["a"]}, INTEGER),
    "no type": ({"maxLength": 3}, {"type": "string", "maxLength": 3}),
    # values
    "const": ({"const": "a\"b\n"}, {"const": "a\"b\n"}),
    "const null": ({"const": None}, {"const": None}),
    "enum and type": ({"enum": ["a", 1, None], "type": ["string", "null"]}, {"enum": ["a", None]}),
    "1.0 is an integer": ({"const": 1.0, "type": "integer"}, {"const": 1}),
    "true is not 1": ({"allOf": [{"enum": [True, 0]}, {"enum": [1, 0]}]}, {"const": 0}),
    "enum and bounds": ({"enum": [1, 5, 9, "x"], "minimum": 2, "maximum": 8}, {"enum": [5, "x"]}),
    # numbers
    "both bounds": ({"type": "integer", "minimum": 0, "exclusiveMaximum": 10}, between(0, 9)),
    "tighter bound": ({"type": "integer", "minimum": 0, "exclusiveMinimum": 4.5, "maximum": 9},
                      between(5, 9)),
    "draft 4 bounds": ({"type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 9},
                       between(1, 9)),
    "float bounds": ({"type": "integer", "minimum": -0.5, "maximum": 1e3}, between(0, 1000)),
    "one bound": ({"type": "integer", "maximum": -5}, between(-(10**16) + 1, -5)),
    "beyond 64 bits": ({"type": "integer", "minimum": 0, "maximum": 2**70}, between(0, 2**63 - 2)),
    "int32": ({"type": "integer", "format": "int32"}, between(-(2**31), 2**31 - 1)),
    "multiples": ({"type": "integer", "minimum": -5, "maximum": 12, "multipleOf": 5},
                  {"enum": [-5, 0, 5, 10]}),
    "multiple of 1": ({"type": "number", "multipleOf": 1}, INTEGER),
    "multiple of 0.5": ({"type": "integer", "multipleOf": 0.5}, INTEGER),
    # strings
    "lengths": ({"type": "string", "minLength": 1.0, "maxLength": 9},
                {"type": "string", "minLength": 1, "maxLength": 9}),
    "long": ({"type": "string", "maxLength": 9999}, {"type": "string", "maxLength": MAX_REPEAT}),
    "pattern": ({"pattern": r"^a\d+$"}, {"type": "string", "pattern": "^a([0-9]){1,}$"}),
    "pattern and lengths": ({"pattern": "^[a-f]+$", "minLength": 2, "maxLength": 4},
                            {"type": "string", "pattern": "^([a-f]){2,4}$"}),
    "fixed part and lengths": ({"pattern": "^x[a-f]*$", "maxLength": 4},
                               {"type": "string", "pattern": "^x([a-f]){0,3}$"}),
    "implied lengths": ({"pattern": "^abc$", "minLength": 3},
                        {"type": "string", "pattern": "^abc$"}),
    # arrays
    "items": ({"items": INTEGER, "minItems": 1},
              {"type": "array", "items": INTEGER, "minItems": 1}),
    "many items": ({"type": "array", "maxItems": 10**9},
                   {"type": "array", "items": {}, "maxItems": 1000}),
    "no items": ({"type": "array", "items": False}, {"type": "array", "items": {}, "maxItems": 0}),
    "tuple": ({"prefixItems": [INTEGER, STRING], "items": False}, array(INTEGER, STRING)),
    "draft 7 tuple": ({"items": [INTEGER], "additionalItems": STRING, "minItems": 2},
                      array(INTEGER, STRING)),
    "short tuple": ({"prefixItems": [INTEGER, STRING], "maxItems": 1}, array(INTEGER)),
    "tuple that must end": ({"prefixItems": [INTEGER, False, STRING]}, array(INTEGER)),
    "nothing twice": ({"type": "array", "uniqueItems": True, "maxItems": 1},
                      {"type": "array", "items": {}, "maxItems": 1}),
    # objects
    "object": ({"type": "object"}, {"type": "object"}),
    "map": ({"additionalProperties": INTEGER},
            {"type": "object", "additionalProperties": INTEGER}),
    "named ones are closed": ({"properties": {"a": INTEGER}, "additionalProperties": True},
                              closed({"a": INTEGER})),
    "required but not declared": ({"properties": {"a": INTEGER}, "required": ["b"],
                                   "additionalProperties": STRING},
                                  closed({"a": INTEGER, "b": STRING}, "b")),
    "forbidden property": ({"properties": {"a": False, "b": {"not": {}}, "c": INTEGER}},
                           closed({"c": INTEGER})),
    "nothing": ({"additionalProperties": False, "type": "object"}, closed({})),
    "all of them": ({"properties": {"a": {}, "b": {}}, "minProperties": 2},
                    closed({"a": {}, "b": {}}, "a", "b")),
    "enough of them": ({"properties": {"a": {}}, "required": ["a"], "minProperties": 1,
                        "maxProperties": 1}, closed({"a": {}}, "a")),
    "odd names": ({"properties": {"": {}, "root": {}, "a b": {}, "a-b": {}, '"': {}, "*": {}},
                   "required": ["*"]},
                  closed({"": {}, "root": {}, "a b": {}, "a-b": {}, '"': {}, "*": {}}, "*")),
    "unevaluated": ({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False},
                    closed({"a": {}})),
    # conjunctions
    "allOf of one": ({"allOf": [STRING], "title": "t"}, STRING),
    "allOf of objects": ({"allOf": [{"properties": {"a": INTEGER}, "required": ["a"]},
                                    {"properties": {"b": STRING,
                                                    "a": {"minimum": 3, "maximum": 5}}}],
                          "type": "object"},
                         closed({"a": between(3, 5), "b": STRING}, "a")),
    "allOf closes": ({"allOf": [{"properties": {"a": {}}, "additionalProperties": False},
                                {"properties": {"a": INTEGER, "b": {}}}]}, closed({"a": INTEGER})),
    "beside anyOf": ({"type": "string", "anyOf": [{"maxLength": 2}, {"minLength": 1}]},
                     {"anyOf": [{"type": "string", "maxLength": 2},
                                {"type": "string", "minLength": 1}]}),
    "dead branch": ({"type": "string", "anyOf": [INTEGER, {"maxLength": 1}]},
                    {"type": "string", "maxLength": 1}),
    "if alone": ({"if": INTEGER, "type": "string"}, STRING),
    "not false": ({"not": False, "type": "string"}, STRING),
    # oneOf, where only one can match
    "oneOf types": ({"oneOf": [STRING, INTEGER, {"type": "null"}]},
                    {"anyOf": [STRING, INTEGER, {"type": "null"}]}),
    "oneOf consts": ({"oneOf": [{"const": 1}, {"enum": [2, 3]}]},
                     {"anyOf": [{"const": 1}, {"enum": [2, 3]}]}),
    "oneOf tagged": ({"oneOf": [tagged({"const": "a"}), tagged({"enum": ["b"]})]},
                     {"anyOf": [closed({"kind": {"const": "a"}}, "kind"),
                                closed({"kind": {"const": "b"}}, "kind")]}),
    "oneOf with a discriminator": (
        {"oneOf": [{"properties": {"kind": {"const": tag}}} for tag in "ab"],
         "discriminator": {"propertyName": "kind"}},
        {"anyOf": [closed({"kind": {"const": "a"}}, "kind"),
                   closed({"kind": {"const": "b"}}, "kind")]}),
    "oneOf by what is there": ({"oneOf": [{"properties": {name: {}}, "required": [name]}
                                          for name in ("mail", "phone")]},
                               {"anyOf": [closed({"mail": {}}, "mail"),
                                          closed({"phone": {}}, "phone")]}),
}  # fmt: skip


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten(name: str) -> None:
    schema, expected = REWRITTEN[name]
    before = json.dumps(schema)
    prepared = prepare(schema)
    assert root_of(schema) == expected
    assert json.loads(schema_text(schema)) == prepared
    assert json.dumps(schema) == before
    # What was prepared says the same when it is prepared again, up to the names of definitions.
    assert root_of(expected) == expected


def test_values_of_str_and_int_subclasses_become_plain() -> None:
    class Colour(str, enum.Enum):
        RED = "red"

    class Size(enum.IntEnum):
        SMALL = 1

    node = root_of({"enum": (Colour.RED, Size.SMALL)})
    assert node == {"enum": ["red", 1]}
    assert [type(value) for value in node["enum"]] == [str, int]


# -- references -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": INTEGER}, "$ref": "#/$defs/a"},
        {"definitions": {"a": INTEGER}, "$ref": "#/definitions/a", "description": "d"},
        {"$defs": {"a b/c~d": INTEGER}, "$ref": "#/$defs/a%20b~1c~0d"},
        {"$defs": {"a": INTEGER | {"$anchor": "here"}}, "$ref": "#here"},
        {"$id": "http://x/y", "$defs": {"a": INTEGER}, "$ref": "http://x/y#/$defs/a"},
        {"$id": "http://x/y", "$defs": {"a": INTEGER | {"$id": "z"}}, "$ref": "z"},
        {"$defs": {"a": INTEGER | {"$id": "#old"}}, "$ref": "#old"},
        {"$id": "urn:x:y", "$defs": {"a": INTEGER}, "$ref": "#/$defs/a"},
        {"components": 0, "x-parts": [0, INTEGER], "$ref": "#/x-parts/1"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": INTEGER}, "$ref": "#/$defs/a"},
    ],
)
def test_references_are_followed(schema: dict[str, Any]) -> None:
    schema.pop("components", None)
    assert root_of(schema) == INTEGER


def test_what_is_beside_a_reference_counts() -> None:
    schema = {"$defs": {"a": {"minimum": 3, "type": "integer"}}, "$ref": "#/$defs/a", "maximum": 5}
    assert root_of(schema) == between(3, 5)


def test_recursion_becomes_definitions_with_plain_names() -> None:
    tree = {
        "properties": {"v": INTEGER, "kids": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["kids"],
    }
    kids = {"type": "array", "items": {"$ref": "#/$defs/d0"}}
    assert prepare(tree) == {
        "$ref": "#/$defs/d0",
        "$defs": {"d0": closed({"v": INTEGER, "kids": kids}, "kids")},
    }


def test_conjunctions_of_recursive_schemas_end() -> None:
    node = {"properties": {"next": {"allOf": [{"$ref": "#"}, {"properties": {"x": INTEGER}}]}}}
    assert len(prepare(node)["$defs"]) == 2


# -- refused --------------------------------------------------------------------------------------

REFUSED: list[tuple[Any, set[str]]] = [
    ({"type": "object", "properties": {"a": {"type": "number", "minimum": 0, "multipleOf": 0.01}},
      "patternProperties": {"x": {}}, "dependentRequired": {"a": ["b"]}},
     {"#/properties/a/minimum", "#/properties/a/multipleOf", "#/patternProperties",
      "#/dependentRequired"}),
    ({"type": "object", "propertyNames": STRING}, {"#/propertyNames"}),
    ({"type": "object", "minProperties": 1}, {"#/minProperties"}),
    ({"properties": {"a": {}, "b": {}}, "maxProperties": 1}, {"#/maxProperties"}),
    ({"properties": {"*": {}}}, {"#/properties/*"}),
    ({"properties": {"x" * 201: {}}}, {"#/properties/" + "x" * 201}),
    ({"additionalProperties": False, "required": ["a"]}, {"#/required"}),
    ({"unevaluatedProperties": STRING}, {"#/unevaluatedProperties"}),
    ({"allOf": [{"unevaluatedProperties": False}, {"properties": {"a": {}}}]},
     {"#/allOf/0/unevaluatedProperties"}),
    ({"type": "array", "contains": {}, "uniqueItems": True, "unevaluatedItems": False},
     {"#/contains", "#/uniqueItems", "#/unevaluatedItems"}),
    ({"type": "array", "minItems": 2000}, {"#/minItems"}),
    ({"type": "array", "minItems": 3, "maxItems": 2}, {"#/minItems"}),
    ({"type": "array", "minItems": 1, "items": False}, {"#/minItems"}),
    ({"not": STRING}, {"#/not"}),
    ({"if": {}, "then": {}, "else": {}}, {"#/then", "#/else"}),
    ({"type": "string", "nullable": True}, {"#/nullable"}),
    ({"$dynamicRef": "#a"}, {"#/$dynamicRef"}),
    ({"type": "string", "format": "uri-template"}, {"#/format"}),
    ({"type": "string", "format": "date", "pattern": "^a$"}, {"#/format"}),
    ({"allOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, {"#/allOf/1/pattern"}),
    ({"pattern": "^(ab)+$", "minLength": 3}, {"#/pattern"}),
    ({"type": "string", "minLength": 3000}, {"#/minLength"}),
    ({"type": "string", "minLength": 3, "maxLength": 2}, {"#/minLength"}),
    ({"type": "integer", "minimum": 3, "maximum": 2}, {"#/minimum"}),
    ({"type": "integer", "minimum": 2**63}, {"#/minimum"}),
    ({"type": "integer", "multipleOf": 7}, {"#/multipleOf"}),
    ({"type": "integer", "multipleOf": 0.3}, {"#/multipleOf"}),
    ({"type": "string", "enum": [1]}, {"#/enum"}),
    ({"enum": ["a"], "pattern": "b"}, {"#/pattern"}),
    ({"const": 2**64}, {"#/const"}),
    ({"oneOf": [INTEGER, {"type": "number"}]}, {"#/oneOf"}),
    ({"oneOf": [{"required": ["a"]}, {"properties": {"a": {}}}]}, {"#/oneOf"}),
    ({"oneOf": [tagged({"const": 1}), tagged({"const": 1.0})]}, {"#/oneOf"}),
    ({"oneOf": [tagged({"const": "a"}), {"properties": {"kind": {"const": "b"}}}, STRING]},
     {"#/oneOf"}),
    # references
    ({"$ref": "http://x/y"}, {"#/$ref"}),
    ({"$ref": "other.json#/a"}, {"#/$ref"}),
    ({"properties": {"a/b": {"$ref": "#/$defs/none"}}}, {"#/properties/a~1b/$ref"}),
    ({"$ref": "#nowhere"}, {"#/$ref"}),
    ({"$ref": "#"}, {"#/$ref"}),
    ({"allOf": [{"$ref": "#"}]}, {"#/allOf/0/$ref"}),
    ({"properties": {"a": {"$id": "x", "$ref": "#"}}}, {"#/properties/a/$ref"}),
    ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, {"#"}),
    ({"$defs": {"a": {"anyOf": [STRING, {"$ref": "#/$defs/a"}]}}, "items": {"$ref": "#/$defs/a"}},
     {"#/$defs/a"}),
    # typing errors and malformed schemas
    ({"type": "string", "minLenght": 1}, {"#/minLenght"}),
    ({"colour": 1}, {"#/colour"}),
    ({"type": "text"}, {"#/type"}),
    ({"type": []}, {"#/type"}),
    ({"properties": [], "required": "a", "additionalProperties": 3},
     {"#/properties", "#/required", "#/additionalProperties"}),
    ({"allOf": {}, "anyOf": [], "enum": [], "items": 3, "$ref": 4},
     {"#/allOf", "#/anyOf", "#/$ref"}),
    ({"prefixItems": {}, "minItems": -1, "maxItems": "3"},
     {"#/prefixItems", "#/minItems", "#/maxItems"}),
    ({"type": "string", "pattern": 3, "format": [], "minLength": 1.5, "maxLength": True},
     {"#/pattern", "#/format", "#/minLength", "#/maxLength"}),
    ({"type": "integer", "minimum": "3", "multipleOf": 0}, {"#/minimum", "#/multipleOf"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "pointers"), REFUSED, ids=[str(case[0])[:60] for case in REFUSED]
)
def test_refused(schema: Any, pointers: set[str]) -> None:
    assert set(refused(schema)) == pointers


def test_the_error_names_a_remedy_and_the_likely_keyword() -> None:
    with pytest.raises(GrammarError, match=r"did you mean minLength\?.*llamacffi-llguidance"):
        prepare({"minLenght": 1})


def nested(depth: int) -> Any:
    schema: Any = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def cyclic() -> Any:
    schema: dict[str, Any] = {}
    schema["items"] = schema
    return schema


def chain(length: int) -> Any:
    definitions = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(length)}
    return {"$defs": definitions | {f"a{length}": STRING}, "$ref": "#/$defs/a0"}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (None, "is a dict, not NoneType"),
        ("{}", "is a dict, not str"),
        (False, "no document can match"),
        ({"const": math.nan}, "#/const is nan"),
        ({"enum": {1}}, "#/enum is"),
        ({"const": b"x"}, "#/const is"),
        ({"properties": {1: {}}}, "#/properties has the key 1"),
        ({"const": "\ud800"}, "half a surrogate pair"),
        ({"description": "x" * 2**20}, "larger than"),
        (nested(1000), "nests deeper"),
        (cyclic(), "contains itself"),
        (chain(5000), "100 references"),
        ({"allOf": [{"anyOf": [{"required": [f"{n}{m}"]} for m in range(5)]} for n in range(9)]},
         "too large"),
        ({"properties": {str(n): {} for n in range(201)}}, "optional properties"),
        ({"pattern": "(" * 100 + ")" * 100}, "nests more than"),
        ({"pattern": "(?:a?" * 20 + ")*" * 20}, "too long"),
        ({"pattern": "(" + "a?" * 2000 + ")*"}, "too long"),
        ({"pattern": "a" * 5000}, "longer than"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_hostile_schemas(schema: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        prepare(schema)


# -- patterns -------------------------------------------------------------------------------------

PIECES = ["a", "b", "1", "é", ".", r"\d", r"\w", r"\s", r"\S", "[ab1]", "[^a]", r"[^\d]", r"\.",
          r"[\w-]", '"', r"\\", r"\n", r"\x41", r"é", "😀"]  # fmt: skip
patterns = st.recursive(
    st.sampled_from(PIECES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,3}", "*?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)
texts = st.text(alphabet='ab1Aé. -"\\\n\t_😀', max_size=6)


def matches(written: str, text: str) -> bool:
    return re.fullmatch(written, json.dumps(text, ensure_ascii=False)[1:-1]) is not None


@settings(max_examples=400, deadline=None)
@given(patterns, st.booleans(), st.booleans(), st.lists(texts, min_size=1, max_size=8))
def test_patterns_mean_the_same(body: str, start: bool, end: bool, candidates: list[str]) -> None:
    body = body if body.count("|") == 0 else f"(?:{body})"
    pattern = "^" * start + body + r"$" * end
    oracle = ("" if start else r"(?s:.)*") + body + ("" if end else r"(?s:.)*")
    written = write(parse(pattern))
    narrower = re.search(r"é|\\[wdsSD]|\[\^", pattern)  # where dialects differ
    for text in candidates:
        found = matches(written, text)
        expected = re.fullmatch(oracle, text, re.ASCII) is not None
        assert found <= (re.search(pattern, text) is not None)
        if not narrower or text.isascii():
            assert found == expected, (pattern, text, written)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(patterns, texts)
def test_lengths_hold(pattern: str, text: str) -> None:
    low, high = lengths(parse(f"^(?:{pattern})$"))
    assume(re.fullmatch(pattern, text))
    assert low <= len(text)
    assert high is None or len(text) <= high


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("foo", ["foo", "a foo\n"], ["fo"]),
        ("^a|b$", ["ax", "xb", "ab"], ["xa", "bx"]),
        ("^abc+$", ["abccc"], ["abcabc"]),
        (r"^a\x2D+$", ["a--"], ["a-a-"]),
        ('^"$', ['"'], ["", "a"]),
        (r"^\\$", ["\\"], ["\\\\"]),
        (r"^[\]\[^-]+$", ["]^[-"], ["a"]),
        ("^[^a]$", ["b", '"', "\\", "\n", "é"], ["a"]),
        (r"^\d$", ["1"], ["\u0661", "a"]),
        (r"^[^\w]$", ["-"], ["é", "a"]),
        ("^(?<year>a)(?P<b>c)$", ["ac"], ["a"]),
        ("^(a*)*$", ["", "aaa"], ["b"]),
        ("^((a|)(b|)){3}$", ["", "abb", "ababab"], ["bbbb"]),
        ("^$", [""], ["a"]),
        ("", ["", "a"], []),
        ("^]}$", ["]}"], []),
        (r"^\/\-$", ["/-"], []),
        ("^.$", ["a"], ["\n", "\u2028"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    written = write(parse(pattern))
    assert [text for text in yes if not matches(written, text)] == []
    assert [text for text in no if matches(written, text)] == []


@pytest.mark.parametrize(
    "pattern",
    [r"\bword", "a(?=b)", "(?!a)b", "(?<=a)b", r"(a)\1", "[]a]", "[^]", r"\p{L}", r"\cA", r"\q",
     "a{3,1}", "a**", "a++", "*", "(", ")", "[a", "\\", "a{,3}", "a{b", "(^a)", "a^b", "^a$b",
     "[b-a]", r"[\d-x]", r"[a-\d]", r"\x1", r"\u12", r"\ud800", r"\01", "a{2001}", "^\x01$"],
)  # fmt: skip
def test_patterns_that_are_refused(pattern: str) -> None:
    assert set(refused({"type": "string", "pattern": pattern})) <= {"#/pattern"}


FORMAT_CHECKS: dict[str, Any] = {
    "date": dt.date.fromisoformat,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
}


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_formats(name: str, data: st.DataObject) -> None:
    text = data.draw(
        st.from_regex(FORMATS[name], fullmatch=True, alphabet=st.characters(codec="ascii"))
    )
    assert matches(write(parse(FORMATS[name])), text)
    FORMAT_CHECKS.get(name, str)(text)


# -- the generator of documents that other tests use ----------------------------------------------


def test_random_texts_of_a_grammar() -> None:
    grammar = Grammar(
        'root ::= "<" (word ("," word){0,2})? ">"  # a list\n'
        'word ::= [a-c\\x41]+ | "\\"" | deep\ndeep ::= "(" deep ")" | [^\\n-z]{2} |'
    )
    rng = random.Random(0)
    found = [grammar.generate(rng) for _ in range(300)]
    assert all(re.fullmatch(r"<.*>", text, re.DOTALL) for text in found)
    assert len(set(found)) > 100
    assert {"<>", '<">'} <= set(found)


@pytest.mark.parametrize("text", ["root", "root ::= (", 'root ::= "\\q"', 'root ::= "a"{0,3000}'])
def test_grammars_that_the_generator_cannot_read(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        Grammar(text)
