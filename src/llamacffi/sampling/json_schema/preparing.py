"""JSON schemas made ready for upstream's converter, which ignores much and mistakes some.

A schema is read as a conjunction of parts: `allOf`, `$ref` and everything beside them speak about
the same value, so they are merged; `anyOf` and `oneOf` become one conjunction per branch. What
comes out has one kind of constraint per node, which upstream's converter keeps exactly. It may
allow fewer documents than the schema, never more; and what cannot be kept is refused by name.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from typing import Any, TypeAlias

from llamacffi.errors import SchemaError
from llamacffi.sampling.json_schema.conjunctions import Conjunctions, Parts
from llamacffi.sampling.json_schema.containers import array, objects, objects_apart
from llamacffi.sampling.json_schema.keywords import TYPES, Part, json_key, type_of
from llamacffi.sampling.json_schema.refs import depth, endless, plain_copy, step
from llamacffi.sampling.json_schema.scalars import filtered, integer, number, string

__all__ = ["prepare", "schema_text"]

MAX_DEFINITIONS = 1000
MAX_DEPTH = 300  # upstream's converter recurses, 1.3 KB each; threads of macOS have 512 KB
MAX_BRANCHES = 500
REMEDY = (
    "Leave these keywords out and check the result yourself, or install llamacffi-llguidance, "
    "which supports more of them."
)

Prepared: TypeAlias = "dict[str, Any] | None"  # None: no value can match


class _Preparation(Conjunctions):
    """One schema on its way."""

    def __init__(self, root: Any, prefix: str) -> None:
        super().__init__(root)
        self._prefix = prefix
        self._names: dict[tuple[str, ...], str] = {}
        self._waiting: deque[tuple[str, Parts]] = deque()

    def run(self, root: Any) -> dict[str, Any]:
        found = self._leaves([Part("#", root, outer=True)])
        if found is None:
            raise SchemaError("The JSON schema is false: no document can match it.")
        start = self._definition(found[0])
        origins: dict[str, str] = {}
        definitions: dict[str, dict[str, Any]] = {}
        impossible = []
        while self._waiting:
            name, leaves = self._waiting.popleft()
            origins[name] = leaves[0].pointer if leaves else "#"
            node = self._build(leaves)
            definitions[name] = node if node is not None else {}
            if node is None:
                impossible.append(name)
            if len(definitions) > MAX_DEFINITIONS:
                raise SchemaError(
                    f"The JSON schema refers to more than {MAX_DEFINITIONS} definitions."
                )
        if not self._problems:
            for name in impossible:
                self.refuse(origins[name], "", "no document can match it")
            for name, reason in endless(definitions):
                self.refuse(origins[name], "", reason)
        if self._problems:
            listed = "; ".join(f"{pointer} ({why})" for pointer, why in self._problems.items())
            raise SchemaError(f"The JSON schema cannot be enforced: {listed}. {REMEDY}")
        if depth(definitions, start) > MAX_DEPTH:
            raise SchemaError(
                f"The JSON schema nests more than {MAX_DEPTH} levels where references lead from "
                "one to the next. Make it simpler."
            )
        # The root is a definition, too: upstream names rules after properties, and at the root
        # they could take the names of other rules (a property "" that of the root itself).
        return {"$ref": f"#/$defs/{start}", "$defs": definitions}

    # -- what the other half uses -----------------------------------------------------------------

    def convert(self, parts: Parts) -> Prepared:
        """Return the node for a conjunction, or None when no value can match."""
        if len(parts) == 1:
            parts = [replace(parts[0], outer=True)]
        found = self._leaves(parts)
        if found is None:
            return None
        leaves, followed = found
        if followed or self._key(leaves) in self._names:
            return {"$ref": f"#/$defs/{self._definition(leaves)}"}
        return self._build(leaves)

    def apart(self, one: Parts, other: Parts, depth: int = 4) -> bool:
        """Tell whether no value that is generated for one can match the other."""
        self._count()
        first, second = self._leaves(one), self._leaves(other)
        if first is None or second is None:
            return True
        for leaves, rest, swapped in ((first[0], other, False), (second[0], one, True)):
            if branches := self._branches(leaves):
                pairs = [(rest, branch) if swapped else (branch, rest) for branch in branches[1]]
                return depth > 0 and all(self.apart(a, b, depth - 1) for a, b in pairs)
        mine, theirs = first[0], second[0]
        common = self._types(mine) & self._types(theirs, generated=False)
        values, others = self._values(mine), self._values(theirs)
        if values is not None and others is not None:
            return not {json_key(value) for value in values} & {json_key(v) for v in others}
        if values is not None or others is not None:
            common &= {type_of(value) for value in (values if values is not None else others) or ()}
        if not common or depth == 0:
            return not common
        return common == {"object"} and objects_apart(self, mine, theirs, depth - 1)

    def _key(self, leaves: Parts) -> tuple[str, ...]:
        return tuple(sorted(part.key for part in leaves))

    def _definition(self, leaves: Parts) -> str:
        key = self._key(leaves)
        if key not in self._names:
            self._names[key] = f"{self._prefix}{len(self._names)}"
            self._waiting.append((self._names[key], leaves))
        return self._names[key]

    # -- nodes ------------------------------------------------------------------------------------

    def _build(self, leaves: Parts) -> Prepared:
        self._count()
        if found := self._branches(leaves):
            pointer, branches = found
            if pointer.endswith("/oneOf"):
                self._check_one_of(pointer, branches)
            if len(branches) > MAX_BRANCHES:
                self.refuse(pointer, "", f"it has more than {MAX_BRANCHES} branches")
                return {}
            return _any_of(self.convert(branch) for branch in branches) if branches else {}
        if not self._general(leaves):
            return None
        types, values = self._types(leaves), self._values(leaves)
        if values is not None:
            kept = filtered(self, leaves, [value for value in values if type_of(value) in types])
            if not kept:
                keyword = "enum" if "enum" in leaves[0].schema else "const"
                self.impossible(leaves, keyword, "no value is left by the other keywords")
                return None
            return {"const": kept[0]} if len(kept) == 1 else {"enum": kept}
        if not types:
            self.impossible(leaves, "type", "no type is left")
            return None
        if types == frozenset(TYPES) and not self._constrained(leaves):
            return {}
        return _any_of(self._typed(name, leaves, types) for name in TYPES if name in types)

    def _typed(self, name: str, leaves: Parts, types: frozenset[str]) -> Prepared:
        if name == "object":
            return objects(self, leaves)
        if name == "array":
            return array(self, leaves)
        if name == "string":
            return string(self, leaves)
        if name == "integer":
            return None if "fraction" in types else integer(self, leaves)
        return number(self, leaves) if name == "fraction" else {"type": name}

    def _check_one_of(self, pointer: str, branches: list[list[Part]]) -> None:
        for (i, one), (j, other) in combinations(enumerate(branches), 2):
            if not (self.apart(one, other) and self.apart(other, one)):
                self.refuse(
                    pointer, "", f"a document may match both {i} and {j}: use anyOf, or tell them "
                    "apart by type or by a required property with a const"
                )  # fmt: skip
                return

    def _general(self, leaves: Parts) -> bool:
        """Check the keywords that concern every type; False when no value can match."""
        for part in leaves:
            schema = part.schema
            if schema.get("nullable") not in (None, False):
                self.refuse(part.pointer, "nullable", 'use {"type": [..., "null"]}')
            for keyword in ("$dynamicRef", "$recursiveRef"):
                if keyword in schema:
                    self.refuse(part.pointer, keyword, "not supported")
            if "if" in schema:
                for keyword in ("then", "else"):
                    if keyword in schema:
                        self.refuse(part.pointer, keyword, "not supported")
            if "not" in schema:
                inside = self._leaves([Part(step(part.pointer, "not"), schema["not"])])
                if inside == ([], False):
                    return False  # {"not": {}} is how some write `false`
                if inside is not None:
                    self.refuse(part.pointer, "not", "not supported")
        return True


def _any_of(nodes: Iterable[Prepared]) -> Prepared:
    found: list[dict[str, Any]] = []
    for node in nodes:
        if node is not None and node not in found:
            found.append(node)
    if len(found) < 2:
        return found[0] if found else None
    return {"anyOf": found}


def prepare(schema: Any, prefix: str = "d") -> dict[str, Any]:
    """Rewrite a JSON schema into the part of the language that upstream's converter keeps exactly.

    Arguments:
        schema: A dict, or a bool; of draft 4 to 2020-12. The document may be narrower than it:
            objects with named properties are closed, tuples have one length, and a schema without
            `type` is taken to mean the types that its keywords speak about.
        prefix: What the names of definitions begin with: upstream's rules are named after them, so
            schemas that share a grammar need different ones.

    Raises:
        SchemaError: Naming every keyword that cannot be kept by its JSON pointer.
    """
    if not isinstance(schema, (dict, bool)):
        raise SchemaError(f"A JSON schema is a dict, not {type(schema).__name__}.")
    root = plain_copy(schema)
    return _Preparation(root, prefix).run(root)


def schema_text(schema: Any) -> str:
    """Return the JSON text of the prepared schema.

    Raises:
        SchemaError: As prepare().
    """
    return json.dumps(prepare(schema), ensure_ascii=False)
