"""References of JSON schemas: where they point to, and whether they ever come to an end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from llamacffi.errors import SchemaError

__all__ = ["References", "depth", "endless", "plain_copy", "step"]

MAX_DEPTH = 64
MAX_CHARACTERS = 2**20

_ONE = (
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items",
    "not", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_LIST = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_MAP = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")


def step(pointer: str, *names: str | int) -> str:
    """Return the JSON pointer of a member."""
    escaped = (str(name).replace("~", "~0").replace("/", "~1") for name in names)
    return "/".join((pointer, *escaped))


def plain_copy(schema: Any) -> Any:
    """Return a copy of dict, list, str, int, float, bool and None only.

    Raises:
        SchemaError: It has other values, or is too large or too deep.
    """
    characters = 0

    def copy(value: Any, pointer: str, depth: int) -> Any:
        nonlocal characters
        characters += len(value) + 8 if isinstance(value, str) else 8
        if characters > MAX_CHARACTERS:
            raise SchemaError(f"The JSON schema is larger than {MAX_CHARACTERS} characters.")
        if depth > MAX_DEPTH:
            raise SchemaError(
                f"The JSON schema nests deeper than {MAX_DEPTH} levels, or contains itself: "
                f"{pointer[:80]}. Move parts to $defs and point to them with $ref."
            )
        if isinstance(value, dict):
            if bad := [key for key in value if not isinstance(key, str)]:
                raise SchemaError(f"{pointer} has the key {bad[0]!r}: keys of JSON are str.")
            return {
                copy(key, pointer, depth): copy(member, step(pointer, key), depth + 1)
                for key, member in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [copy(item, step(pointer, at), depth + 1) for at, item in enumerate(value)]
        if isinstance(value, str):
            try:
                return value.encode().decode()  # also makes a plain str of an Enum's member
            except UnicodeEncodeError:
                raise SchemaError(f"{pointer} has half a surrogate pair: {value!r}.") from None
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        raise SchemaError(f"{pointer} is {value!r:.80}, which JSON cannot have.")

    return copy(schema, "#", 0)


class References:
    """Finds what a `$ref` names; nothing outside the document is ever fetched."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._resources: dict[str, str] = {}  # URI without fragment: JSON pointer
        self._bases = {"#": ""}  # JSON pointer of a resource: its URI
        self._anchors: dict[tuple[str, str], str] = {}
        old = isinstance(root, dict) and "draft-04" in str(root.get("$schema", ""))
        self._identifier = "id" if old else "$id"
        for pointer, schema in self._schemas(root):
            self._note(pointer, schema)
        self._resources.setdefault("", "#")

    def _schemas(self, root: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        stack = [("#", root)]
        while stack:
            pointer, schema = stack.pop()
            if not isinstance(schema, dict):
                continue
            yield pointer, schema
            members: list[tuple[str, Any]] = [
                (step(pointer, key), schema[key]) for key in _ONE if key in schema
            ]
            for key in _LIST:
                if isinstance(found := schema.get(key), list):
                    members += [(step(pointer, key, at), part) for at, part in enumerate(found)]
            for key in _MAP:
                if isinstance(found := schema.get(key), dict):
                    members += [(step(pointer, key, name), part) for name, part in found.items()]
            stack += reversed(members)

    def _note(self, pointer: str, schema: dict[str, Any]) -> None:
        uri = self._base(pointer)
        identifier = schema.get(self._identifier)
        # Up to draft 7 an identifier beside $ref is ignored, later it is not: see resolve().
        if isinstance(identifier, str) and identifier.strip("#"):
            if identifier.startswith("#"):
                self._anchors[uri, identifier[1:]] = pointer
            else:
                uri = urldefrag(urljoin(uri, identifier)).url
                self._resources.setdefault(uri, pointer)
                self._bases[pointer] = uri
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(anchor := schema.get(keyword), str):
                self._anchors.setdefault((uri, anchor), pointer)

    def _base(self, pointer: str) -> str:
        while pointer not in self._bases:
            pointer = pointer.rpartition("/")[0]
        return self._bases[pointer]

    def resolve(self, reference: Any, pointer: str) -> tuple[str, Any]:
        """Return the JSON pointer and the schema that a reference at a pointer names.

        Raises:
            ValueError: Saying why there is none.
        """
        if not isinstance(reference, str):
            raise ValueError("it must be a string")
        if pointer != "#" and pointer in self._bases:
            raise ValueError(f"drafts disagree about {self._identifier} beside it; take that away")
        base = self._base(pointer)
        try:
            uri, fragment = urldefrag(urljoin(base, reference))
        except ValueError:
            raise ValueError(f"{reference!r} is not a URI") from None
        uri = base if reference.startswith("#") else uri
        target = self._resources.get(uri, "#" if uri == self._bases["#"] else None)
        if target is None:
            raise ValueError(f"{reference!r} is outside the schema, and nothing is fetched")
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            target = self._anchors.get((uri, fragment))
            if target is None:
                raise ValueError(f"no schema has the anchor {fragment!r}")
            fragment = ""
        target += fragment
        return target, self._lookup(target, reference)

    def _lookup(self, pointer: str, reference: str) -> Any:
        found = self._root
        for token in pointer.split("/")[1:]:
            name = token.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise ValueError(f"{reference!r} names nothing in the schema")
        return found


def endless(definitions: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield prepared definitions that no finite value satisfies or that start with themselves."""
    finite: set[str] = set()

    def ends(node: dict[str, Any]) -> bool:
        if "$ref" in node:
            return node["$ref"].rpartition("/")[2] in finite
        if "anyOf" in node:
            return any(ends(branch) for branch in node["anyOf"])
        if node.get("type") == "object":
            return all(ends(node["properties"][name]) for name in node.get("required", ()))
        if isinstance(node.get("items"), list):
            return all(ends(item) for item in node["items"])
        if node.get("type") == "array" and node.get("minItems", 0) > 0:
            return ends(node["items"])
        return True

    while found := {name for name in definitions if name not in finite and ends(definitions[name])}:
        finite |= found
    for name in definitions:
        if name not in finite:
            yield name, "every value of it would have to contain another one, without end"
        elif _starts_with_itself(name, definitions):
            yield name, "it refers to itself before anything else"


def _starts_with_itself(name: str, definitions: dict[str, dict[str, Any]]) -> bool:
    seen: set[str] = set()
    nodes = [definitions[name]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("anyOf", [])
        if "$ref" in node:
            other = node["$ref"].rpartition("/")[2]
            if other == name:
                return True
            if other not in seen:
                seen.add(other)
                nodes.append(definitions[other])
    return False


def depth(definitions: dict[str, dict[str, Any]], start: str) -> int:
    """Return how deep upstream's converter recurses: into a definition when it first meets it."""
    seen: set[str] = set()
    deepest = 0
    nodes: list[tuple[dict[str, Any], int]] = [({"$ref": start}, 1)]
    while nodes:
        node, level = nodes.pop()
        deepest = max(deepest, level)
        inside = [*node.get("anyOf", ()), *node.get("properties", {}).values()]
        for keyword in ("items", "additionalProperties"):
            member = node.get(keyword)
            inside += member if isinstance(member, list) else [member] if member else []
        if "$ref" in node and (name := node["$ref"].rpartition("/")[2]) not in seen:
            seen.add(name)
            inside.append(definitions[name])
        nodes += [(child, level + 1) for child in reversed(inside)]
    return deepest
