"""The matrix of backends: what is done for each, here and elsewhere, and doing it.

See ci/matrix and ci/backend, which call this; ci/rows.py is where the rows are declared.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

from machine import this_platform
from row_steps import FAILED, Result, do_row, missing_device, tool_of, why_not
from rows import NOTHING, OPTIONS, PACKAGE, PLATFORMS, ROWS, SETUP, STEPS, WHEEL, Row

_BY_NAME = {row.name: row for row in ROWS}
_WAYS = {
    SETUP: "ci/setup",
    WHEEL: "ci/wheel",
    NOTHING: "in the CPU library",
}


def _built(row: Row) -> str:
    return {OPTIONS: " ".join(row.options), PACKAGE: row.package, **_WAYS}[row.build]


def plan(row: Row) -> dict[str, str]:
    """What is done in each step on this machine, or "skip: REASON"."""
    if reason := why_not(row):
        return {STEPS[0]: f"skip: {reason}"}
    lacking = missing_device(row)
    return {
        "prepare": f"ci/tools/{row.name}" if tool_of(row) else "-",
        "build": _built(row),
        "load": "not usable" if lacking else "usable",
        "generate": f"skip: {lacking}" if lacking else "the CPU's text",
        "test": " ".join(row.tests) or "-",
    }


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need be; the last cell of a line may run over the rest."""
    whole = [line for line in [head, *lines] if len(line) == len(head)]
    widths = [max(len(line[column]) for line in whole) for column in range(len(head))]
    shown = []
    for line in [head, ["-" * width for width in widths], *lines]:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def _in_workflow(row: Row, platform: str) -> str:
    """How far a row goes on a platform, on a machine without a card."""
    if platform not in row.platforms:
        return "skip"
    if platform in row.until:
        return f"until {row.until[platform]}"
    return "all but generate" if row.device else "all"


def _described(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "what": row.what,
        "here": plan(row),
        "workflow": {platform: _in_workflow(row, platform) for platform in PLATFORMS},
        "skipped elsewhere": row.elsewhere,
    }


def _show(rows: Sequence[Row]) -> None:
    for row in rows:
        print(f"{row.name:8}  {row.what}")
    here = [[row.name, *plan(row).values()] for row in rows]
    print(f"\nOn this machine, {this_platform()}:\n")
    print(_table(["row", *STEPS], here))
    there = [[row.name, *(_in_workflow(row, name) for name in PLATFORMS)] for row in rows]
    print("\nIn .github/workflows/ci.yml, which has not been run yet, without a card:\n")
    print(_table(["row", *PLATFORMS], there), end="\n\n")
    for row in rows:
        if row.elsewhere:
            print(f"{row.name}: skipped elsewhere, since {row.elsewhere}")


def _seconds(seconds: float) -> str:
    return f"{seconds // 60:.0f}:{seconds % 60:02.0f}"


def _report(results: Sequence[Result]) -> str:
    lines = []
    for name, found in groupby(results, key=lambda result: result.row):
        steps = list(found)
        lines += [[name, s.step, s.outcome, _seconds(s.seconds), s.words] for s in steps]
        if len(steps) > 1:
            lines.append([name, "", "", _seconds(sum(s.seconds for s in steps)), "the whole row"])
    return _table(["row", "step", "outcome", "time", ""], lines)


def _run(rows: Sequence[Row], until: str, as_json: bool) -> int:
    results = [result for row in rows for result in do_row(row, until)]
    print()
    print(json.dumps([asdict(r) for r in results], indent=2) if as_json else _report(results))
    failed = [result for result in results if result.outcome == FAILED]
    for result in failed:
        print(f"{result.row}: {result.step} failed. To do it by hand: ci/backend {result.row}")
    return 1 if failed else 0


def _rows(names: Sequence[str]) -> list[Row]:
    unknown = [name for name in names if name not in _BY_NAME]
    if unknown:
        sys.exit(f"ci/matrix: no row {unknown[0]!r}; there are {', '.join(_BY_NAME)}")
    return [_BY_NAME[name] for name in names] or list(ROWS)


def main(arguments: Sequence[str]) -> int:
    """Show the matrix, run rows of it, or list what belongs to rows."""
    parser = argparse.ArgumentParser(prog="ci/matrix", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    parser.add_argument("--json", action="store_true", help="print JSON")
    run = commands.add_parser("run", help="do every row, or those named, that this machine can")
    run.add_argument("row", nargs="*")
    run.add_argument("--until", choices=STEPS, default=STEPS[-1], help="the last step to do")
    run.add_argument("--json", action="store_true", help="print the results as JSON")
    owned = commands.add_parser("owned", help="list the packages or tests that belong to a row")
    owned.add_argument("kind", choices=("packages", "tests"))
    given = parser.parse_args(arguments)
    if given.command == "run":
        return _run(_rows(given.row), given.until, given.json)
    if given.command == "owned":
        print(*owned_by_rows(given.kind), sep="\n")
        return 0
    if given.json:
        described = {"platform": this_platform(), "rows": [_described(row) for row in ROWS]}
        print(json.dumps(described, indent=2))
    else:
        _show(ROWS)
    return 0


def owned_by_rows(kind: str) -> list[str]:
    """What the suite ("tests") or ci/plugins ("packages") leaves to a row."""
    if kind == "packages":
        return [row.package for row in ROWS if row.package]
    return [path for row in ROWS if row.build not in (SETUP, PACKAGE) for path in row.tests]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
