"""The vocabulary of JSON Schema: which keyword says what about which type."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["ANNOTATIONS", "KEYWORD_TYPES", "NUMBER", "TYPES", "Part", "is_trivial", "json_key",
           "named_types", "suggestion", "type_of", "whole"]  # fmt: skip

# A "number" is an integer or a fraction, so that {"type": ["integer", "string"]} and
# {"type": "number"} together are plainly an integer.
TYPES = ("object", "array", "string", "integer", "fraction", "boolean", "null")
NUMBER = frozenset(("integer", "fraction"))

# They say nothing about the document, or act elsewhere: identifiers, definitions, `then` without
# `if`. "xml" to "nullable": OpenAPI's and others' annotations.
ANNOTATIONS = frozenset((
    "$anchor", "$comment", "$defs", "$dynamicAnchor", "$id", "$recursiveAnchor", "$schema",
    "$vocabulary", "contentEncoding", "contentMediaType", "contentSchema", "default",
    "definitions", "deprecated", "description", "examples", "id", "readOnly", "title",
    "writeOnly", "discriminator", "enumDescriptions", "enumNames", "errorMessage", "example",
    "externalDocs", "markdownDescription", "propertyOrdering", "xml",
))  # fmt: skip

# What a keyword constrains; it says nothing about documents of other types.
KEYWORD_TYPES = {
    **dict.fromkeys(
        ("additionalProperties", "dependencies", "dependentRequired", "dependentSchemas",
         "maxProperties", "minProperties", "patternProperties", "properties", "propertyNames",
         "required", "unevaluatedProperties"), frozenset(("object",))),
    **dict.fromkeys(
        ("additionalItems", "contains", "items", "maxContains", "maxItems", "minContains",
         "minItems", "prefixItems", "unevaluatedItems", "uniqueItems"), frozenset(("array",))),
    **dict.fromkeys(("maxLength", "minLength", "pattern", "format"), frozenset(("string",))),
    **dict.fromkeys(
        ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"), NUMBER),
}  # fmt: skip

_GENERAL = frozenset((
    "$dynamicRef", "$recursiveRef", "$ref", "allOf", "anyOf", "const", "else", "enum", "if",
    "not", "nullable", "oneOf", "then", "type",
))  # fmt: skip
_ALL = _GENERAL | ANNOTATIONS | KEYWORD_TYPES.keys()


def suggestion(keyword: str) -> str | None:
    """Return why a keyword is not known, or None when it is.

    The specification has unknown keywords ignored, but then `minLenght` would be dropped in
    silence; so only names that start with `x-` are free, as in OpenAPI.
    """
    if keyword in _ALL or keyword.startswith("x-"):
        return None
    close = difflib.get_close_matches(keyword, _ALL, n=1, cutoff=0.75)
    return f"did you mean {close[0]}?" if close else "not a keyword; x-... may be anything"


@dataclass(frozen=True)
class Part:
    """A schema and where it is. Several make a conjunction: a document must satisfy them all.

    Attributes:
        pointer: JSON pointer.
        schema: As the user wrote it, perhaps without some keywords.
        outer: No other schema speaks about the same value, but those inside this one.
        without: Keywords that were taken away because they are dealt with.
    """

    pointer: str
    schema: Any
    outer: bool = False
    without: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What tells parts apart."""
        return " -".join((self.pointer, *self.without))

    def take(self, keyword: str) -> Part:
        """Return the part without a keyword."""
        rest = {key: value for key, value in self.schema.items() if key != keyword}
        return replace(self, schema=rest, without=(*self.without, keyword))


def named_types(value: Any) -> frozenset[str] | None:
    """Return the types that the keyword `type` names, or None when it is malformed."""
    names = value if isinstance(value, list) else [value]
    found: set[str] = set()
    for name in names:
        if name == "number":
            found |= NUMBER
        elif isinstance(name, str) and name in TYPES and name != "fraction":
            found.add(name)
        else:
            return None
    return frozenset(found) or None


def type_of(value: Any) -> str:
    """Return the type of a JSON value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "integer" if whole(value) else "fraction"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def whole(value: float) -> bool:
    """Tell whether a number is an integer: 1.0 is."""
    return isinstance(value, int) or (math.isfinite(value) and value.is_integer())


def json_key(value: Any) -> Any:
    """Return something hashable that is equal for equal JSON values: 1 and 1.0, not 1 and true."""
    if isinstance(value, dict):
        return "object", frozenset((name, json_key(member)) for name, member in value.items())
    if isinstance(value, list):
        return "array", tuple(json_key(item) for item in value)
    return "number" if type_of(value) in NUMBER else type_of(value), value


def is_trivial(schema: Any, keywords: Iterable[str] = ANNOTATIONS) -> bool:
    """Tell whether a schema allows everything."""
    return schema is True or (isinstance(schema, dict) and schema.keys() <= set(keywords))
