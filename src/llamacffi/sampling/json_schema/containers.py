"""Objects and arrays of JSON schemas as upstream's converter keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from llamacffi.sampling.json_schema.keywords import Part, is_trivial
from llamacffi.sampling.json_schema.refs import step
from llamacffi.sampling.json_schema.scalars import Notes, counted

__all__ = ["Converter", "array", "objects", "objects_apart"]

MAX_ITEMS = 1000  # the repetition and its parentheses count for MAX_REPETITION_THRESHOLD
MAX_OPTIONAL = 200  # upstream's work grows with the cube of it, the grammar with the square
MAX_NAME = 200  # std::regex recurses for each byte that a rule's name cannot have


class Converter(Notes, Protocol):
    """What turns the schemas inside into nodes."""

    def convert(self, parts: Sequence[Part]) -> dict[str, Any] | None:
        """Return the node for a conjunction, or None when no value can match."""

    def apart(self, one: Sequence[Part], other: Sequence[Part], depth: int) -> bool:
        """Tell whether no value that is generated for one can match the other."""


def _members(notes: Notes, part: Part, keyword: str) -> dict[str, Any]:
    value = part.schema.get(keyword, {})
    if isinstance(value, dict):
        return value
    notes.refuse(part.pointer, keyword, "it must be an object")
    return {}


# -- objects --------------------------------------------------------------------------------------


def _required(notes: Notes, leaves: Sequence[Part]) -> list[str]:
    names: dict[str, None] = {}
    for part in leaves:
        value = part.schema.get("required", [])
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            names |= dict.fromkeys(value)
        else:
            notes.refuse(part.pointer, "required", "it must be a list of names")
    return list(names)


def _additional(leaves: Sequence[Part]) -> list[Part]:
    return [
        Part(step(part.pointer, "additionalProperties"), part.schema["additionalProperties"])
        for part in leaves
        if "additionalProperties" in part.schema
    ]


def _property(notes: Notes, leaves: Sequence[Part], name: str) -> list[Part]:
    """Return everything that is said about a property."""
    parts = []
    for part in leaves:
        properties = _members(notes, part, "properties")
        if name in properties:
            parts.append(Part(step(part.pointer, "properties", name), properties[name]))
        else:
            parts += _additional([part])
    if not parts and any(part.schema.get("unevaluatedProperties") is False for part in leaves):
        parts = [Part(step(leaves[0].pointer, "unevaluatedProperties"), False)]
    return parts


def _names(notes: Notes, leaves: Sequence[Part]) -> list[str]:
    declared = [name for part in leaves for name in _members(notes, part, "properties")]
    return list(dict.fromkeys([*declared, *_required(notes, leaves)]))


def _refuse_object_keywords(notes: Notes, leaves: Sequence[Part]) -> None:
    for part in leaves:
        schema = part.schema
        for keyword in ("dependencies", "dependentRequired", "dependentSchemas",
                        "patternProperties"):  # fmt: skip
            if schema.get(keyword, {}) != {}:
                notes.refuse(part.pointer, keyword, "not supported")
        if not is_trivial(schema.get("propertyNames", True)):
            notes.refuse(part.pointer, "propertyNames", "not supported")
        # Objects are closed, which does for `false` where all properties are spoken of here.
        unevaluated = schema.get("unevaluatedProperties", True)
        if not is_trivial(unevaluated) and (unevaluated is not False or not part.outer):
            notes.refuse(part.pointer, "unevaluatedProperties", "not supported here")


def _is_open(leaves: Sequence[Part]) -> bool:
    closed = any(part.schema.get("unevaluatedProperties") is False for part in leaves)
    return bool(_additional(leaves)) or not closed


def _check_sizes(
    notes: Notes, leaves: Sequence[Part], nodes: dict[str, Any], required: list[str], is_map: bool
) -> list[str]:
    """Check minProperties and maxProperties; return what is required because of them."""
    low = max(counted(notes, leaves, "minProperties"), default=0)
    high = min(counted(notes, leaves, "maxProperties"), default=None)
    if low == len(nodes) and not is_map:
        required = list(nodes)
    for part in leaves:
        if "minProperties" in part.schema and low > len(required):
            notes.refuse(part.pointer, "minProperties", "only up to the number of required ones")
        if "maxProperties" in part.schema and high is not None and (is_map or high < len(nodes)):
            notes.refuse(part.pointer, "maxProperties", "only above the number of properties")
    return required


def objects(walk: Converter, leaves: Sequence[Part]) -> dict[str, Any] | None:
    """Return the node for an object, or None when none matches.

    With named properties it is closed: upstream's rule for other names allows broken JSON
    (`["] [^"a] char*` takes a backslash).
    """
    _refuse_object_keywords(walk, leaves)
    names, required = _names(walk, leaves), _required(walk, leaves)
    nodes: dict[str, dict[str, Any]] = {}
    for name in names:
        node = walk.convert(_property(walk, leaves, name))
        if node is not None:
            nodes[name] = node
        elif name in required:
            walk.impossible(leaves, "required", f"no value of the property {name!r} can match")
            return None
    if not names and _is_open(leaves):
        other = walk.convert(_additional(leaves))
        if other is not None:
            _check_sizes(walk, leaves, nodes, required, is_map=True)
            return {"type": "object"} | ({"additionalProperties": other} if other else {})
    required = _check_sizes(walk, leaves, nodes, required, is_map=False)
    _check_names(walk, leaves, nodes, required)
    node = {"type": "object", "properties": nodes, "additionalProperties": False}
    return node | ({"required": required} if required else {})


def _check_names(
    notes: Notes, leaves: Sequence[Part], nodes: dict[str, Any], required: list[str]
) -> None:
    def refuse(name: str, reason: str) -> None:
        for part in leaves:
            if name in part.schema.get("properties", {}):
                notes.refuse(step(part.pointer, "properties"), name, reason)
                return
        notes.refuse(leaves[0].pointer, "required", reason)

    for name in nodes:
        if len(name.encode()) > MAX_NAME:
            refuse(name, f"a name of more than {MAX_NAME} bytes")
        elif name == "*" and name not in required:
            refuse(name, "upstream takes it for any name; require it")
    if len(nodes) - len(required) > MAX_OPTIONAL:
        refuse("", f"more than {MAX_OPTIONAL} optional properties; require some")


def objects_apart(
    walk: Converter, mine: Sequence[Part], theirs: Sequence[Part], depth: int
) -> bool:
    """Tell whether no object that is generated for one conjunction can match the other."""
    my_names = _names(walk, mine)
    for name in dict.fromkeys([*_required(walk, mine), *_required(walk, theirs)]):
        if my_names and name not in my_names:
            return True  # it is required there, and never generated here
        one, other = _property(walk, mine, name), _property(walk, theirs, name)
        if walk.apart(one, other, depth):
            return True
    return False


# -- arrays ---------------------------------------------------------------------------------------


def _tuple(notes: Notes, part: Part) -> tuple[list[Part], list[Part]]:
    """Return what is said about the first items, and about the rest."""
    schema, pointer = part.schema, part.pointer
    items = schema.get("items", True)
    if "prefixItems" in schema and isinstance(schema["prefixItems"], list):
        keyword, rest = "prefixItems", "items"
        if isinstance(items, list):
            notes.refuse(pointer, "items", "it must be a schema beside prefixItems")
            return [], []
    elif isinstance(items, list):
        keyword, rest = "items", "additionalItems"  # up to draft 2019-09
    else:
        if "prefixItems" in schema:
            notes.refuse(pointer, "prefixItems", "it must be a list of schemas")
        return [], [Part(step(pointer, "items"), items)] if "items" in schema else []
    first = [Part(step(pointer, keyword, at), item) for at, item in enumerate(schema[keyword])]
    return first, [Part(step(pointer, rest), schema[rest])] if rest in schema else []


def _refuse_array_keywords(notes: Notes, leaves: Sequence[Part], high: int | None) -> None:
    for part in leaves:
        schema = part.schema
        if "contains" in schema and (schema.get("minContains") != 0 or "maxContains" in schema):
            notes.refuse(part.pointer, "contains", "not supported")
        if schema.get("uniqueItems") not in (None, False) and (high is None or high > 1):
            notes.refuse(part.pointer, "uniqueItems", "not supported")
        if not is_trivial(schema.get("unevaluatedItems", True)):
            notes.refuse(part.pointer, "unevaluatedItems", "not supported")


def array(walk: Converter, leaves: Sequence[Part]) -> dict[str, Any] | None:
    """Return the node for an array, or None when none matches."""
    low = max(counted(walk, leaves, "minItems"), default=0)
    high = min(counted(walk, leaves, "maxItems"), default=None)
    _refuse_array_keywords(walk, leaves, high)
    if high is not None and high < low:
        walk.impossible(leaves, "minItems", "it is above maxItems")
        return None
    if low > MAX_ITEMS:
        for part in leaves:
            if "minItems" in part.schema:
                walk.refuse(part.pointer, "minItems", f"it is above {MAX_ITEMS}")
        return {}
    high = None if high is None else min(high, MAX_ITEMS)
    tuples = [_tuple(walk, part) for part in leaves]
    longest = max(len(first) for first, _ in tuples)

    def item(at: int) -> dict[str, Any] | None:
        said = [first[at : at + 1] or rest for first, rest in tuples]
        return walk.convert([part for parts in said for part in parts])

    if longest:
        return _fixed(
            walk, leaves, item, low, min(max(longest, low), MAX_ITEMS if high is None else high)
        )
    node = item(0)
    if node is None:
        if low:
            walk.impossible(leaves, "minItems", "no item can match")
            return None
        node, high = {}, 0
    found: dict[str, Any] = {"type": "array", "items": node}
    return found | ({"minItems": low} if low else {}) | ({} if high is None else {"maxItems": high})


def _fixed(
    walk: Converter, leaves: Sequence[Part], item: Any, low: int, length: int
) -> dict[str, Any] | None:
    """Return a tuple: upstream gives it one length, and ignores minItems and maxItems."""
    nodes = []
    for at in range(length):
        node = item(at)
        if node is None:
            break
        nodes.append(node)
    if len(nodes) < low:
        walk.impossible(leaves, "minItems", f"no item {len(nodes)} can match")
        return None
    return {"type": "array", "items": nodes}
