"""The command line of the generator; run at the repository root."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from codegen import coverage, differ, pin
from codegen.preprocess import CodegenError
from codegen.render import CDEF, Rendered, render, write


def main(arguments: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: The command line, by default that of the process.
        root: The repository, by default the current folder.

    Returns:
        The exit status: 1 where a check failed or something has to be mended first.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(root or Path.cwd(), options)
    except CodegenError as error:
        print(f"codegen: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m codegen", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("--source", type=Path, help="llama.cpp tree (default: the pinned one)")
    report = argparse.ArgumentParser(add_help=False)
    report.add_argument("--report", type=Path, help="write the report of changes here, too")

    generate = commands.add_parser("generate", parents=[source], help="write the generated files")
    generate.set_defaults(run=_generate)
    check = commands.add_parser("check", parents=[source], help="fail if they are out of date")
    check.set_defaults(run=_check)
    diff = commands.add_parser("diff", parents=[report], help="compare two sets of declarations")
    diff.add_argument("old", help="folder like native/cdef, or git revision of this repository")
    diff.add_argument("new", nargs="?", default=str(CDEF), help="the same (default: %(default)s)")
    diff.set_defaults(run=_diff)
    upgrade = commands.add_parser(
        "upgrade", parents=[source, report], help="pin another llama.cpp commit and report changes"
    )
    upgrade.add_argument("revision", help="full commit id")
    upgrade.set_defaults(run=_upgrade)
    return parser


def _generate(root: Path, options: argparse.Namespace) -> int:
    rendered = render(root, options.source or pin.find_source(root))
    for name in write(root, rendered):
        print(f"wrote {name}")
    _name_unexplained(rendered)
    return 0


def _check(root: Path, options: argparse.Namespace) -> int:
    rendered = render(root, options.source or pin.find_source(root))
    stale = False
    for name, text in rendered.files.items():
        path = root / name
        committed = path.read_text() if path.is_file() else ""
        if committed != text:
            stale = True
            sys.stdout.writelines(
                difflib.unified_diff(
                    committed.splitlines(keepends=True),
                    text.splitlines(keepends=True),
                    f"committed/{name.as_posix()}",
                    f"generated/{name.as_posix()}",
                )
            )
    if stale:
        print("codegen: out of date, run `python -m codegen generate`", file=sys.stderr)
    return 1 if _name_unexplained(rendered) or stale else 0


def _diff(root: Path, options: argparse.Namespace) -> int:
    old, new = (differ.load(root, where) for where in (options.old, options.new))
    _report_changes(root, old, new, (options.old, options.new), options.report)
    return 0


def _upgrade(root: Path, options: argparse.Namespace) -> int:
    old = differ.load(root, str(CDEF))
    # Not the wrap's: that is already the new one when this runs again after a failed fetch.
    made_from = re.search(r"\b[0-9a-f]{40}\b", old.get("llama.h", ""))
    before = made_from[0] if made_from else "nothing"
    after = pin.write_pin(root, options.revision)
    print(f"pinned {after.revision} in {pin.WRAP}", file=sys.stderr)
    rendered = render(root, options.source or pin.fetch_source(root))
    write(root, rendered)
    new = differ.load(root, str(CDEF))
    _report_changes(root, old, new, (before, after.revision), options.report)
    _name_unexplained(rendered)
    return 0


def _report_changes(
    root: Path,
    old: dict[str, str],
    new: dict[str, str],
    names: tuple[str, str],
    path: Path | None,
) -> None:
    words = coverage.words_by_file(root)
    changes = differ.compare(differ.interface(old), differ.interface(new), words)
    text = differ.write_changes(changes, *names)
    print(text, end="")
    if path is not None:
        path.write_text(text)


def _name_unexplained(rendered: Rendered) -> bool:
    for name in rendered.unexplained:
        print(
            f"codegen: {name} is neither wrapped nor explained in {coverage.REASONS}",
            file=sys.stderr,
        )
    return bool(rendered.unexplained)


if __name__ == "__main__":
    sys.exit(main())
