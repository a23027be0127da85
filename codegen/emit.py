"""Writes declarations as files: cffi's cdef, and the rows of the layout table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from codegen.declarations import Declaration
from codegen.selection import NOT_IN_LIBRARIES, OUTPUTS, is_chosen

_HEADERS = frozenset(header for headers in OUTPUTS.values() for header in headers)


def select(declarations: Sequence[Declaration]) -> list[Declaration]:
    """The declarations to commit: the chosen ones and, transitively, the types they need."""
    by_key = {(item.kind, item.name): item for item in declarations}
    wanted: set[tuple[str, str]] = set()
    pending = [
        (item.kind, item.name)
        for item in declarations
        if item.kind != "opaque" and is_chosen(item.kind, item.name, item.header)
    ]
    while pending:
        key = pending.pop()
        if key in wanted or (key not in by_key and key[0] != "opaque"):
            continue
        wanted.add(key)
        if key in by_key:
            pending.extend(by_key[key].needs)
    chosen = []
    for item in declarations:
        if item.header not in _HEADERS:
            continue  # libc's, which cffi knows
        complete = ("struct", item.name) in wanted
        if item.kind == "struct" and not complete and ("opaque", item.name) in wanted:
            # Its layout is nobody's business here: a forward declaration says so.
            if ("opaque", item.name) not in by_key:
                text = f"struct {item.name};"
                chosen.append(Declaration("opaque", item.name, item.header, text))
        elif item.kind == "opaque":
            whole = is_chosen(item.kind, item.name, item.header)
            if whole or (("opaque", item.name) in wanted and not complete):
                chosen.append(item)
        elif (item.kind, item.name) in wanted:
            chosen.append(item)
    return chosen


def cdef_files(chosen: Iterable[Declaration], banner: str) -> dict[str, str]:
    """The text of each file of ``native/cdef``, by name, in the order of ``cdef()``."""
    items = list(chosen)
    files = {}
    for output, headers in OUTPUTS.items():
        parts = [_comment(banner)]
        # Headers in the order in which their types depend on each other.
        for header in headers:
            mine = [item for item in items if item.header == header]
            if mine:
                parts.append(f"// {header}\n")
                parts.append(_join([item for item in mine if item.kind == "macro"]))
                parts.append(_join([item for item in mine if item.kind != "macro"]))
        files[output] = "\n".join(part for part in parts if part)
    return files


def layout_rows(chosen: Iterable[Declaration], banner: str) -> str:
    """Rows of the table of sizes, offsets and values that every library carries."""
    lines = [_comment(banner)]
    for item in chosen:
        if item.header in NOT_IN_LIBRARIES:
            continue
        if item.kind == "struct":
            lines.append(f"STRUCT({item.name})")
            lines += [f"FIELD({item.name}, {name})" for name, _ in item.members]
        elif item.kind == "typedef" and item.text.startswith(("typedef struct {", "typedef union")):
            lines.append(f"TYPEDEF_STRUCT({item.name})")
            lines += [f"TYPEDEF_FIELD({item.name}, {name})" for name, _ in item.members]
        elif item.members:
            lines += [f"CONSTANT({name})" for name, _ in item.members]
        elif item.kind == "macro":
            lines.append(f"CONSTANT({item.name})")
    return "\n".join(lines) + "\n"


def _comment(banner: str) -> str:
    return "".join(f"// {line}\n" for line in banner.splitlines())


def _join(items: Sequence[Declaration]) -> str:
    """Declarations one after the other, with air around those that take several lines."""
    lines: list[str] = []
    for item in items:
        text = f"// deprecated: {item.deprecated}\n{item.text}" if item.deprecated else item.text
        spacious = item.kind in {"struct", "enum"}
        if lines and lines[-1] and spacious:
            lines.append("")
        lines += text.splitlines()
        if spacious:
            lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n" if lines else ""
