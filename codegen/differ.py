"""Compares two sets of committed declarations: what an upgrade of llama.cpp changes for us."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from codegen.declarations import parse
from codegen.preprocess import CodegenError, from_cdef
from codegen.render import CDEF
from codegen.selection import OUTPUTS

Interface = dict[tuple[str, str], str]
"""(kind, name) to the C text, with fields and enumerators as entries of their own."""

_KINDS = ("function", "struct", "field", "enum", "enumerator", "typedef", "macro")


@dataclass(frozen=True)
class Change:
    """One difference; ``old`` is empty for an addition, ``new`` for a removal."""

    kind: str
    name: str
    old: str
    new: str
    used_in: tuple[str, ...] = ()

    @property
    def action(self) -> str:
        """Added, removed or changed."""
        if not self.old:
            return "added"
        return "changed" if self.new else "removed"


def load(root: Path, where: str) -> dict[str, str]:
    """Texts of the declarations in a folder, or in a git revision of the repository."""
    folder = root / where
    if folder.is_dir():
        return {name: (folder / name).read_text() for name in OUTPUTS if (folder / name).is_file()}
    texts = {}
    for name in OUTPUTS:
        spec = f"{where}:{(CDEF / name).as_posix()}"
        show = subprocess.run(
            ["git", "show", spec], cwd=root, capture_output=True, text=True, check=False
        )
        if show.returncode:
            raise CodegenError(f"{where} is no folder, and git says: {show.stderr.strip()}")
        texts[name] = show.stdout
    return texts


def interface(files: Mapping[str, str]) -> Interface:
    """Everything that declarations declare, by kind and name."""
    found: Interface = {}
    for item in parse(from_cdef(files)):
        if item.header not in files or item.kind == "opaque":
            continue
        if item.kind in {"struct", "enum"}:
            # Members speak for themselves, except for the order of fields, which is layout.
            order = ", ".join(name for name, _ in item.members)
            found[item.kind, item.name] = order if item.kind == "struct" else f"enum {item.name}"
        else:
            advice = f"  // deprecated: {item.deprecated}" if item.deprecated else ""
            found[item.kind, item.name] = " ".join(item.text.split()) + advice
        enum = item.text.removeprefix("typedef ").startswith("enum")
        for name, text in item.members:
            if enum:
                found["enumerator", name] = f"{name} = {text}"
            else:
                found["field", f"{item.name}.{name}"] = text
    return found


def compare(
    old: Interface, new: Interface, words: Mapping[str, frozenset[str]] | None = None
) -> list[Change]:
    """Differences, and which of our files use what differs.

    A field counts as used where its bare name occurs: better one look too many than too few.
    """
    changes = []
    for kind, name in sorted({*old, *new}, key=lambda key: (_KINDS.index(key[0]), key[1])):
        before, after = old.get((kind, name), ""), new.get((kind, name), "")
        if before != after:
            word = name.rpartition(".")[2]
            used = tuple(file for file, known in (words or {}).items() if word in known)
            changes.append(Change(kind, name, before, after, used))
    return changes


def write_changes(changes: Iterable[Change], old: str, new: str) -> str:
    """The differences in Markdown, those that need work first."""
    items = list(changes)
    urgent = [change for change in items if change.used_in and change.old]
    lines = [f"# llama.cpp {old} to {new}", "", f"{len(items)} differences.", ""]
    lines += ["## Fix these: removed or changed, and used by llamacffi", ""]
    lines += [line for change in urgent for line in _lines(change)] or ["Nothing.", ""]
    for action in ("removed", "changed", "added"):
        rest = [change for change in items if change.action == action and change not in urgent]
        if rest:
            lines += [f"## {action.capitalize()}", ""]
            lines += [line for change in rest for line in _lines(change)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _lines(change: Change) -> list[str]:
    used = f", used in {', '.join(change.used_in)}" if change.used_in else ""
    lines = [f"- {change.kind} `{change.name}` {change.action}{used}"]
    lines += [f"  - old: `{change.old}`"] if change.old else []
    lines += [f"  - new: `{change.new}`"] if change.new else []
    return [*lines, ""]
