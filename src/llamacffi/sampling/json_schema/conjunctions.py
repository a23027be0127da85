"""Conjunctions of JSON schemas: everything that is said about one value, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from llamacffi.errors import SchemaError
from llamacffi.sampling.json_schema.keywords import (
    ANNOTATIONS,
    KEYWORD_TYPES,
    TYPES,
    Part,
    json_key,
    named_types,
    suggestion,
)
from llamacffi.sampling.json_schema.refs import References, step

__all__ = ["Conjunctions", "Parts"]

MAX_STEPS = 100_000
MAX_CHAIN = 100

Parts: TypeAlias = "Sequence[Part]"


def _discriminator(schema: dict[str, Any]) -> str | None:
    """Return the name of the property that tells the branches of `oneOf` apart, if one is given."""
    value = schema.get("discriminator")
    name = value.get("propertyName") if isinstance(value, dict) else None
    return name if isinstance(name, str) else None


class Conjunctions:
    """Reads conjunctions of one schema, and notes what is wrong with them."""

    def __init__(self, root: Any) -> None:
        self._references = References(root)
        self._problems: dict[str, str] = {}
        self._steps = 0

    def refuse(self, pointer: str, keyword: str, reason: str) -> None:
        """Note that a keyword cannot be kept."""
        self._problems.setdefault(step(pointer, keyword) if keyword else pointer, reason)

    def impossible(self, leaves: Parts, keyword: str, reason: str) -> None:
        """No value matches: the user's mistake in one schema, a dead branch where parts meet."""
        if len(leaves) == 1:
            self.refuse(leaves[0].pointer, keyword, reason)

    def _count(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise SchemaError(
                "The JSON schema is too large once its references, allOf and anyOf are put "
                "together. Make it simpler."
            )

    def _leaves(self, parts: Parts) -> tuple[list[Part], bool] | None:
        """Follow `$ref` and `allOf` down to parts without; None when one of them is `false`."""
        leaves: dict[str, Part] = {}
        followed, possible = False, True

        def visit(part: Part, path: frozenset[str]) -> None:
            nonlocal followed, possible
            schema, pointer = part.schema, part.pointer
            if isinstance(schema, bool):
                possible = possible and schema
                return
            if not isinstance(schema, dict):
                self.refuse(pointer, "", "a schema must be an object or a boolean")
                return
            self._count()
            self._vocabulary(part)
            plain = {
                key: value
                for key, value in schema.items()
                if key not in ANNOTATIONS and key not in ("$ref", "allOf")
            }
            inside = path | {pointer}
            if len(inside) > MAX_CHAIN:
                self.refuse(pointer, "", f"{MAX_CHAIN} references and allOf lead to it")
                return
            if "$ref" in schema:
                followed = True
                alone = part.outer and not plain and "allOf" not in schema
                try:
                    target, found = self._references.resolve(schema["$ref"], pointer)
                except ValueError as error:
                    self.refuse(pointer, "$ref", str(error))
                else:
                    if target in inside:
                        self.refuse(pointer, "$ref", "it refers to itself before anything else")
                    else:
                        visit(Part(target, found, outer=alone), inside)
            for at, member in enumerate(self.listed(part, "allOf")):
                visit(Part(step(pointer, "allOf", at), member), inside)
            if "oneOf" in plain and (name := _discriminator(schema)):
                # OpenAPI's: the property that tells the branches apart must be there.
                tag = Part(step(pointer, "discriminator"), {"required": [name]})
                leaves.setdefault(tag.key, tag)
            if plain:
                leaves.setdefault(part.key, replace(part, schema=plain))

        for part in parts:
            visit(part, frozenset())
        return (list(leaves.values()), followed) if possible else None

    def listed(self, part: Part, keyword: str) -> list[Any]:
        """Return the list of schemas that a keyword has, [] without it."""
        value = part.schema.get(keyword, [])
        if isinstance(value, list) and (value or keyword not in part.schema):
            return value
        self.refuse(part.pointer, keyword, "it must be a list with at least one schema")
        return []

    def _vocabulary(self, part: Part) -> None:
        for keyword in part.schema:
            if keyword not in ANNOTATIONS and (why := suggestion(keyword)):
                self.refuse(part.pointer, keyword, why)

    def _branches(self, leaves: Parts) -> tuple[str, list[list[Part]]] | None:
        """Return the first `anyOf` or `oneOf` as one conjunction per branch."""
        for at, part in enumerate(leaves):
            for keyword in ("anyOf", "oneOf"):
                if keyword not in part.schema:
                    continue
                rest = part.take(keyword)
                base = [*leaves[:at], *([rest] if rest.schema else []), *leaves[at + 1 :]]
                return step(part.pointer, keyword), [
                    [*base, Part(step(part.pointer, keyword, index), branch)]
                    for index, branch in enumerate(self.listed(part, keyword))
                ]
        return None

    def _constrained(self, leaves: Parts) -> frozenset[str]:
        """Return the types that keywords speak about."""
        found = [
            KEYWORD_TYPES[key] for part in leaves for key in part.schema.keys() & KEYWORD_TYPES
        ]
        return frozenset().union(*found)

    def _types(self, leaves: Parts, generated: bool = True) -> frozenset[str]:
        """Return the types that are allowed.

        With `generated`, without the keyword `type` only those that other keywords speak about:
        {"properties": ...} allows numbers, too, but hardly anybody means that.
        """
        types: frozenset[str] = frozenset(TYPES)
        stated = False
        for part in leaves:
            if "type" in part.schema:
                named = named_types(part.schema["type"])
                if named is None:
                    self.refuse(part.pointer, "type", "not a type")
                types &= named or types
                stated = True
            stated = stated or "enum" in part.schema or "const" in part.schema
        return types if stated or not generated else self._constrained(leaves) or types

    def _values(self, leaves: Parts) -> list[Any] | None:
        """Return the values that `const` and `enum` leave, or None without them."""
        values: dict[Any, Any] | None = None
        for part in leaves:
            lists = [[part.schema["const"]]] if "const" in part.schema else []
            if "enum" in part.schema:
                lists.append(part.schema["enum"])
                if not isinstance(lists[-1], list) or not lists[-1]:
                    self.refuse(part.pointer, "enum", "it must be a list with at least one value")
                    lists.pop()
            for each in lists:
                allowed = {json_key(value): value for value in each}
                values = {
                    key: value
                    for key, value in (allowed if values is None else values).items()
                    if key in allowed
                }
        return None if values is None else list(values.values())
