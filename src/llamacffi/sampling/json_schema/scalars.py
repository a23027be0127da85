"""Strings and numbers of JSON schemas, and lists of values, as upstream's converter keeps them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from llamacffi.sampling.json_schema import strings
from llamacffi.sampling.json_schema.keywords import KEYWORD_TYPES, Part, type_of, whole
from llamacffi.sampling.json_schema.pattern import PatternError, parse

__all__ = ["Notes", "counted", "filtered", "integer", "number", "string"]

MAX_INTEGER = 2**63 - 2  # upstream takes INT64_MAX to mean "no bound"
USUAL_INTEGER = 10**16 - 1  # as many digits as upstream's rule for any integer
MAX_VALUES = 256
_EDGES = {  # formats of OpenAPI
    "int8": (-(2**7), 2**7 - 1), "int16": (-(2**15), 2**15 - 1), "int32": (-(2**31), 2**31 - 1),
    "int64": (None, None), "uint8": (0, 2**8 - 1), "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1), "uint64": (0, None), "float": (None, None), "double": (None, None),
}  # fmt: skip


class Notes(Protocol):
    """Where problems are written down."""

    def refuse(self, pointer: str, keyword: str, reason: str) -> None:
        """Note that a keyword cannot be kept."""

    def impossible(self, leaves: Sequence[Part], keyword: str, reason: str) -> None:
        """Note that no value can match."""


def counted(notes: Notes, leaves: Sequence[Part], keyword: str) -> list[int]:
    """Return the counts that a keyword gives, refusing what is none."""
    found = []
    for part in leaves:
        if keyword in part.schema:
            value = part.schema[keyword]
            if type_of(value) == "integer" and value >= 0:
                found.append(int(value))
            else:
                notes.refuse(part.pointer, keyword, "it must be an integer of 0 or more")
    return found


# -- strings --------------------------------------------------------------------------------------


def _shapes(notes: Notes, leaves: Sequence[Part]) -> list[tuple[Part, str, str]]:
    """Return the different patterns, with the keyword that asks for each."""
    found: dict[str, tuple[Part, str, str]] = {}
    for part in leaves:
        if "pattern" in part.schema:
            pattern = part.schema["pattern"]
            if isinstance(pattern, str):
                found.setdefault(pattern, (part, "pattern", pattern))
            else:
                notes.refuse(part.pointer, "pattern", "it must be a string")
        name = part.schema.get("format")
        if isinstance(name, str) and name in strings.FORMATS:
            found.setdefault(strings.FORMATS[name], (part, "format", strings.FORMATS[name]))
        elif name not in (None, "password"):
            known = ", ".join(strings.FORMATS)
            notes.refuse(part.pointer, "format", f"{name!r:.40} is not one of {known}")
    return list(found.values())


def string(notes: Notes, leaves: Sequence[Part]) -> dict[str, Any] | None:
    """Return the node for a string, or None when none matches."""
    low = max(counted(notes, leaves, "minLength"), default=0)
    high = min(counted(notes, leaves, "maxLength"), default=None)
    if high is not None and high < low:
        notes.impossible(leaves, "minLength", "it is above maxLength")
        return None
    shapes = _shapes(notes, leaves)
    for part, keyword, _ in shapes[1:]:
        notes.refuse(part.pointer, keyword, "only one pattern or format at a time is supported")
    if shapes:
        part, keyword, pattern = shapes[0]
        try:
            node = strings.with_lengths(parse(pattern), low, high)
            return {"type": "string", "pattern": strings.write(node)}
        except PatternError as error:
            notes.refuse(part.pointer, keyword, str(error))
            return {}
    if low > strings.MAX_REPEAT:
        for part in leaves:
            if part.schema.get("minLength", 0) > strings.MAX_REPEAT:
                notes.refuse(part.pointer, "minLength", f"it is above {strings.MAX_REPEAT}")
        return {}
    high = None if high is None else min(high, strings.MAX_REPEAT)
    if low > 1:
        # Upstream counts "\ud83d\ude00" as two, but it is one character: only short escapes here.
        text = strings.any_text(low, high)
        return {"type": "string", "pattern": strings.write(text)}
    found: dict[str, Any] = {"type": "string"}
    return found | ({"minLength": 1} if low else {}) | ({} if high is None else {"maxLength": high})


# -- numbers --------------------------------------------------------------------------------------


def _bounds(notes: Notes, leaves: Sequence[Part]) -> tuple[int | None, int | None]:
    """Return the smallest and the largest integer."""
    lows, highs = [], []
    for part in leaves:
        schema = part.schema
        for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            value = schema.get(keyword)
            if value is None or (isinstance(value, bool) and keyword.startswith("ex")):
                continue  # draft 4 has true beside minimum
            if type_of(value) not in ("integer", "fraction"):
                notes.refuse(part.pointer, keyword, "it must be a number")
            elif keyword == "minimum":
                strict = schema.get("exclusiveMinimum") is True
                lows.append(math.floor(value) + 1 if strict else math.ceil(value))
            elif keyword == "maximum":
                strict = schema.get("exclusiveMaximum") is True
                highs.append(math.ceil(value) - 1 if strict else math.floor(value))
            elif keyword == "exclusiveMinimum":
                lows.append(math.floor(value) + 1)
            else:
                highs.append(math.ceil(value) - 1)
        smallest, largest = _EDGES.get(str(schema.get("format")), (None, None))
        lows += [] if smallest is None else [smallest]
        highs += [] if largest is None else [largest]
    return max(lows, default=None), min(highs, default=None)


def _step(notes: Notes, leaves: Sequence[Part]) -> int:
    found = 1
    for part in leaves:
        value = part.schema.get("multipleOf", 1)
        if type_of(value) not in ("integer", "fraction") or value <= 0:
            notes.refuse(part.pointer, "multipleOf", "it must be a number above 0")
        elif whole(value):
            found = math.lcm(found, int(value))
        elif math.frexp(value)[0] != 0.5:  # of 0.5, 0.25 ... every integer is a multiple
            notes.refuse(part.pointer, "multipleOf", "only integers are supported")
    return found


def integer(notes: Notes, leaves: Sequence[Part]) -> dict[str, Any] | None:
    """Return the node for an integer, or None when none matches."""
    low, high = _bounds(notes, leaves)
    multiple = _step(notes, leaves)
    if low is not None and high is not None and low > high:
        notes.impossible(leaves, "minimum", "it leaves no integer below the maximum")
        return None
    if multiple > 1:
        return _multiples(notes, leaves, low, high, multiple)
    if low is None and high is None:
        return {"type": "integer"}
    # Both ends, always: with a negative maximum alone, upstream writes "-01".
    if low is None:
        low = -USUAL_INTEGER if high is None or high > -USUAL_INTEGER // 10 else -MAX_INTEGER
    if high is None:
        high = USUAL_INTEGER if low < USUAL_INTEGER // 10 else MAX_INTEGER
    low, high = max(low, -MAX_INTEGER), min(high, MAX_INTEGER)
    if low > high:
        for part in leaves:
            for keyword in part.schema.keys() & {"minimum", "maximum"}:
                notes.refuse(part.pointer, keyword, "it is beyond 64 bits")
        return {}
    return {"type": "integer", "minimum": low, "maximum": high}


def _multiples(
    notes: Notes, leaves: Sequence[Part], low: int | None, high: int | None, multiple: int
) -> dict[str, Any] | None:
    if low is not None and high is not None:
        first, last = -(-low // multiple) * multiple, high // multiple * multiple
        if first > last:
            notes.impossible(leaves, "multipleOf", "no multiple is within the bounds")
            return None
        if (last - first) // multiple < MAX_VALUES and max(-first, last) < 2**63:
            return {"enum": list(range(first, last + 1, multiple))}
    for part in leaves:
        if "multipleOf" in part.schema:
            notes.refuse(
                part.pointer, "multipleOf", f"only with at most {MAX_VALUES} multiples between a "
                "minimum and a maximum"
            )  # fmt: skip
    return {}


def number(notes: Notes, leaves: Sequence[Part]) -> dict[str, Any] | None:
    """Return the node for a number, or None when none matches."""
    if any(type_of(part.schema.get("multipleOf")) == "integer" for part in leaves):
        return integer(notes, leaves)
    formats = {str(part.schema.get("format")) for part in leaves}
    if any("int" in name for name in formats & _EDGES.keys()):
        return integer(notes, leaves)
    for part in leaves:
        for keyword in ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"):
            if keyword in part.schema and not isinstance(part.schema[keyword], bool):
                notes.refuse(part.pointer, keyword, "only supported for integers")
    return {"type": "number"}


# -- values ---------------------------------------------------------------------------------------


def filtered(notes: Notes, leaves: Sequence[Part], values: list[Any]) -> list[Any]:
    """Return those of const's and enum's values that the keywords beside it allow."""
    kept = [_exact(value) for value in values]
    for part in leaves:
        for keyword, types in KEYWORD_TYPES.items():
            if keyword not in part.schema:
                continue
            mine = [value for value in kept if type_of(value) in types]
            test = _TESTS.get(keyword)
            if mine and test is None:
                notes.refuse(part.pointer, keyword, "not beside const or enum")
            elif mine and test is not None:
                limit = part.schema[keyword]
                if type_of(limit) not in ("integer", "fraction"):
                    notes.refuse(part.pointer, keyword, "it must be a number beside const or enum")
                else:
                    kept = [v for v in kept if type_of(v) not in types or test(v, limit)]
    if any(map(_too_large, kept)):
        for part in leaves:
            for keyword in ("const", "enum"):
                if keyword in part.schema:
                    notes.refuse(part.pointer, keyword, "it has an integer beyond 64 bits")
    return kept


_TESTS: dict[str, Any] = {
    "minLength": lambda value, limit: len(value) >= limit,
    "maxLength": lambda value, limit: len(value) <= limit,
    "minimum": lambda value, limit: value >= limit,
    "maximum": lambda value, limit: value <= limit,
    "exclusiveMinimum": lambda value, limit: value > limit,
    "exclusiveMaximum": lambda value, limit: value < limit,
    "minItems": lambda value, limit: len(value) >= limit,
    "maxItems": lambda value, limit: len(value) <= limit,
    "minProperties": lambda value, limit: len(value) >= limit,
    "maxProperties": lambda value, limit: len(value) <= limit,
}


def _exact(value: Any) -> Any:
    """Write 1.0 as 1, which is an integer in every draft."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _too_large(value: Any) -> bool:
    if isinstance(value, (list, dict)):
        return any(map(_too_large, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and not -(2**63) <= value < 2**64
