"""Renders every generated file of the repository, from the pinned tree and the wrapping code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from codegen import coverage
from codegen.declarations import parse
from codegen.emit import cdef_files, layout_rows, select
from codegen.pin import read_pin
from codegen.preprocess import preprocess

CDEF = Path("src/llamacffi/native/cdef")
LAYOUT = Path("src/llamacffi/native/layout_rows.inc")
REPORT = Path("codegen/report.md")


@dataclass(frozen=True)
class Rendered:
    """Generated texts by path below the repository root."""

    files: dict[Path, str]
    unexplained: tuple[str, ...]
    """Functions of llama.h that are not wrapped, and nobody said why."""


def render(root: Path, source: Path) -> Rendered:
    """Render all generated files.

    Args:
        root: The repository, whose pin and wrapping code are read.
        source: The llama.cpp tree, which has to be that of the pin.
    """
    revision = read_pin(root).revision
    made_by = f"Generated from llama.cpp {revision} by `python -m codegen generate`: do not edit."
    chosen = select(parse(preprocess(source)))
    files = {CDEF / name: text for name, text in cdef_files(chosen, made_by).items()}
    files[LAYOUT] = layout_rows(chosen, made_by)
    functions = [item for item in chosen if (item.kind, item.header) == ("function", "llama.h")]
    rows = coverage.cover(functions, coverage.words_by_file(root), coverage.load_reasons(root))
    files[REPORT] = coverage.write_report(rows, made_by)
    return Rendered(files, tuple(row.name for row in rows if not row.explained))


def write(root: Path, rendered: Rendered) -> list[Path]:
    """Write what differs from the files on disk, and say what that was."""
    changed = []
    for name, text in rendered.files.items():
        path = root / name
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            changed.append(name)
    return changed
