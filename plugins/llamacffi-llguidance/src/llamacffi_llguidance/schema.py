"""JSON schemas: to llguidance's grammar, refusing what it would not enforce.

llguidance refuses most keywords that it does not implement, without saying where. It ignores
those which the draft that "$schema" names does not have, "prefixItems" where it takes the schema
for an old one, and the digits of a number beyond float64; and a large "multipleOf" occupies it for
hours. All these are refused here, with their places.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from llguidance import LLMatcher

from llamacffi.errors import SchemaError
from llamacffi_llguidance.messages import readable

__all__ = ["grammar_of"]

# What json.dumps writes. Free white space lets small models write nothing else.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LOOSENING = ("lenient", "coerce_one_of")  # in "x-guidance": ways to enforce less
_UNSUPPORTED = frozenset({
    "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef", "contains",
    "dependencies", "dependentRequired", "dependentSchemas", "disallow", "divisibleBy", "else",
    "extends", "if", "maxContains", "minContains", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties", "uniqueItems",
})  # fmt: skip
_OF_ONE = ("additionalItems", "additionalProperties", "items")
_OF_SEVERAL = (
    "allOf", "anyOf", "oneOf", "prefixItems", "items",
    "properties", "patternProperties", "$defs", "definitions",
)  # fmt: skip
_NUMBERS = (
    "const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
)  # fmt: skip
_DRAFTS_WITHOUT_PREFIX_ITEMS = ("draft-03", "draft-04", "draft-06", "draft-07", "2019-09")
MAX_EXACT = 2**53  # integers that float64 holds exactly
MAX_MULTIPLES, MAX_DECIMALS = 100, 20  # of multipleOf: larger than any use
MAX_STATES = 100_000  # of the automaton that counts multiples: half a second


def grammar_of(schema: Mapping[str, Any] | str | bool) -> str:
    """The grammar in llguidance's form for a JSON schema.

    Args:
        schema: The schema, as a mapping or as JSON text; True for any JSON value.

    Raises:
        SchemaError: It is malformed, or has keywords that cannot be enforced.
    """
    parsed = _parse(schema)
    if parsed is False:
        raise SchemaError("The JSON schema is false, which allows no value. Give one that does.")
    root = {} if parsed is True else parsed
    if not isinstance(root, dict):
        raise SchemaError(f"The JSON schema is {str(parsed)[:40]}: give an object, or true.")
    _check(root)
    try:
        return LLMatcher.grammar_from_json_schema(json.dumps(root), defaults=_SPACING)  # type: ignore[arg-type]
    except ValueError as error:
        raise SchemaError(f"The JSON schema cannot be used: {readable(str(error))}") from None


def _parse(schema: object) -> Any:
    """A copy, of plain dictionaries and lists."""
    try:
        text = schema
        if not isinstance(text, str):
            text = json.dumps(schema, allow_nan=False, default=_plain)
        parsed = json.loads(text)
        json.dumps(parsed, allow_nan=False)  # json.loads takes NaN and 1e999
    except RecursionError:
        raise SchemaError("The JSON schema is nested too deeply. Use $ref.") from None
    except (TypeError, ValueError) as error:
        raise SchemaError(f"The JSON schema is not JSON: {error}. Correct it there.") from None
    return parsed


def _plain(value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is in it")


def _check(root: dict[str, Any]) -> None:
    for option in _LOOSENING:
        if isinstance(root.get("x-guidance"), dict) and root["x-guidance"].get(option):
            raise SchemaError(f"x-guidance: {option!r} at #/x-guidance is refused. Remove it.")
    draft = str(root.get("$schema", ""))
    old = any(name in draft for name in _DRAFTS_WITHOUT_PREFIX_ITEMS)
    multiples: dict[str, Decimal] = {}
    for place, schema in _subschemas(root):
        for keyword in schema:
            if keyword in _UNSUPPORTED:
                raise _refusal(keyword, place, "llguidance does not implement it")
        if schema.get("format") == "unknown":
            raise _refusal("format", place, "'unknown' is no format")
        if "prefixItems" in schema and (old or "additionalItems" in schema):
            raise _refusal("prefixItems", place, "this draft has an array of 'items' in its place")
        for keyword in _NUMBERS:
            for number in _numbers(schema.get(keyword)):
                if isinstance(number, int) and abs(number) > MAX_EXACT:
                    raise _refusal(keyword, place, f"{number} is beyond 2**53 and not exact")
        if _is_number(schema.get("multipleOf")):
            multiples[place] = Decimal(repr(schema["multipleOf"]))
    if not _are_small(set(multiples.values())):
        place = max(multiples, key=lambda place: abs(multiples[place]))
        reason = f"alone or with the others in the schema it takes more than {MAX_STATES} states"
        raise _refusal("multipleOf", place, reason)


def _refusal(keyword: str, place: str, reason: str) -> SchemaError:
    return SchemaError(
        f"The JSON schema's keyword {keyword!r} at {place or '#'} cannot be enforced: {reason}. "
        "Remove it, and check the result yourself if you need it."
    )


def _subschemas(root: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in a schema with its JSON pointer, "#/properties/name"."""
    waiting: list[tuple[str, Any]] = [("#", root)]
    visited: set[int] = set()
    while waiting:
        place, schema = waiting.pop()
        if not isinstance(schema, dict) or id(schema) in visited:
            continue
        visited.add(id(schema))
        yield place, schema
        waiting += [(f"{place}/{key}", schema[key]) for key in _OF_ONE if key in schema]
        for key in _OF_SEVERAL:
            group = schema.get(key)
            entries: Any = ()
            if isinstance(group, list):
                entries = enumerate(group)
            elif isinstance(group, dict) and key != "items":
                entries = group.items()
            waiting += [(f"{place}/{key}/{_escaped(str(name))}", one) for name, one in entries]
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            waiting.append((reference, _resolved(root, reference)))


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _resolved(root: Any, pointer: str) -> Any:
    """What a local JSON pointer points to; None if to nothing, which llguidance reports."""
    for part in pointer[2:].split("/"):
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(root, list) and name.isdecimal() and int(name) < len(root):
            root = root[int(name)]
        elif isinstance(root, dict):
            root = root.get(name)
        else:
            return None
    return root


def _numbers(value: Any) -> Iterator[int | float]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if _is_number(value):
            yield value
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_small(multiples: Collection[Decimal]) -> bool:
    """Whether the common multiple, which allOf needs, is one that llguidance can count."""
    places = (-int(multiple.normalize().as_tuple().exponent) for multiple in multiples)
    scale = max(0, *places, 0)
    if len(multiples) > MAX_MULTIPLES or scale > MAX_DECIMALS:
        return False
    common = math.lcm(*(int(multiple.scaleb(scale)) for multiple in multiples))
    return common <= MAX_STATES or str(common).strip("0") == "1"  # a power of ten is simple
