"""The coverage report: which functions of llama.h llamacffi wraps, and why not the others."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from codegen.declarations import Declaration
from codegen.preprocess import CodegenError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path("src/llamacffi")
REASONS = Path("codegen/reasons.toml")
UNEXPLAINED = "**no reason given: wrap it, or say why not in codegen/reasons.toml**"

_NATIVE_SUFFIXES = {".c", ".cpp", ".h", ".hpp"}
_C_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)


def words_by_file(root: Path) -> dict[str, frozenset[str]]:
    """The identifiers that each source file of the package uses; comments do not count."""
    package = root / PACKAGE
    found = {}
    for path in sorted(package.rglob("*")):
        if path.parent.name == "cdef":
            continue  # the declarations themselves
        if path.suffix == ".py":
            try:
                words = _python_words(path.read_text())
            except SyntaxError as error:
                raise CodegenError(f"cannot read {path.relative_to(root)}: {error}") from error
        elif path.suffix in _NATIVE_SUFFIXES:
            words = frozenset(re.findall(r"\w+", _C_COMMENT.sub(" ", path.read_text())))
        else:
            continue
        found[path.relative_to(package).as_posix()] = words
    return found


def _python_words(text: str) -> frozenset[str]:
    words = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # A name by itself is a look-up, `getattr(lib, "llama_decode")`, and "llama_batch *" is
            # a type given to cffi; in prose a name is only mentioned. `enum x` does not count:
            # llama.h has functions of the same name as the enum they return.
            name = re.fullmatch(r"(?:const |struct )*(\w+)[ *]*(?:\[\d*\])?", node.value)
            if name is not None:
                words.add(name[1])
    return frozenset(words)


def load_reasons(root: Path) -> dict[re.Pattern[str], str]:
    """Why functions are not wrapped: patterns in order, the first that matches counts."""
    reasons = tomllib.loads((root / REASONS).read_text())["reasons"]
    return {re.compile(pattern): str(reason) for pattern, reason in reasons.items()}


@dataclass(frozen=True)
class Row:
    """One function of llama.h in the report."""

    name: str
    where: tuple[str, ...]
    reason: str

    @property
    def explained(self) -> bool:
        """Whether it is wrapped, or somebody said why not."""
        return bool(self.where or self.reason)


def cover(
    functions: Iterable[Declaration],
    words: Mapping[str, frozenset[str]],
    reasons: Mapping[re.Pattern[str], str],
) -> list[Row]:
    """Say of each function where it is wrapped, or why not."""
    rows = []
    for function in functions:
        where = tuple(file for file, used in words.items() if function.name in used)
        reason = ""
        if not where and function.deprecated:
            reason = f"deprecated upstream: {function.deprecated}"
        elif not where:
            matching = (text for regex, text in reasons.items() if regex.fullmatch(function.name))
            reason = next(matching, "")
        rows.append(Row(function.name, where, reason))
    return rows


def write_report(rows: Iterable[Row], banner: str) -> str:
    """The report in Markdown."""
    items = list(rows)
    wrapped = sum(bool(row.where) for row in items)
    reasons = Counter(_group(row) for row in items if not row.where)
    lines = [
        "# Coverage of llama.h",
        "",
        *banner.splitlines(),
        "",
        f"{len(items)} functions: {wrapped} wrapped, {len(items) - wrapped} not wrapped.",
        "",
        *(f"- {count} {reason}" for reason, count in reasons.most_common()),
        "",
        "| function | status | where | reason |",
        "|---|---|---|---|",
    ]
    for row in items:
        status = "wrapped" if row.where else "not wrapped"
        reason = row.reason or ("" if row.where else UNEXPLAINED)
        where = ", ".join(f"`{file}`" for file in row.where)
        lines.append(f"| `{row.name}` | {status} | {where} | {reason} |")
    return "\n".join(lines) + "\n"


def _group(row: Row) -> str:
    if not row.reason:
        return UNEXPLAINED
    return "deprecated upstream" if row.reason.startswith("deprecated upstream") else row.reason
