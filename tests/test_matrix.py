"""ci/matrix: its rows fit the repository, and what it does with a row is what the row says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / ".github/workflows/ci.yml"
ROWS = """
from rows_here import *
from machine import CHECKS, this_platform
HERE = (this_platform(),)
CHECKS["no card"] = lambda: "no card: this is a test"
ROWS = (
    Row("good", "all is well", NOTHING, "cpu", HERE, environment={"ROW": "good"},
        tests=("test_good.py",)),
    Row("failing", "its test fails", NOTHING, "cpu", HERE, tests=("test_failing.py",)),
    Row("broken", "its tools are broken", NOTHING, "cpu", HERE),
    Row("absent", "its tools cannot be had", NOTHING, "cpu", HERE),
    Row("programs", "a program is missing", NOTHING, "cpu", HERE, programs=("no-such-program",)),
    Row("elsewhere", "for another system", NOTHING, "cpu", ("vax-vms",), "it is not a VAX"),
    Row("card", "needs a card, and is usable without", NOTHING, "cpu", HERE, device="no card",
        unusable="no device"),
    Row("plugin", "its package brings the CPU's library", PACKAGE, "plugin", HERE),
    Row("unknown", "no library of it", NOTHING, "none", HERE),
)
"""
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "llamacffi-plugin"
version = "1"
dependencies = ["llamacffi"]
entry-points.llamacffi.plugin = "llamacffi_plugin"
"""
PLUGIN = """
from llamacffi import Backend, hookimpl
from llamacffi.backends import libraries_of
@hookimpl
def register_backends(register):
    register(Backend("plugin", libraries_of("llamacffi", "cpu")))
"""
TOOLS = {
    "good": "echo preparing >&2; echo \"export FROM_TOOL='two words'\"",
    "broken": "echo oh >&2; exit 3",
    "absent": "echo 'trying' >&2; echo 'tools/absent: not on this planet' >&2; exit 69",
}
TESTS = {
    "good": 'assert (os.environ["ROW"], os.environ["FROM_TOOL"]) == ("good", "two words")',
    "failing": "assert False",
}


def matrix(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / "ci/matrix.py", *arguments]
    environment = os.environ | {"VENV": sys.prefix}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def described() -> dict[str, dict[str, Any]]:
    shown = matrix("--json")
    assert shown.returncode == 0, shown.stderr
    return {row["name"]: row for row in json.loads(shown.stdout)["rows"]}


def owned(kind: str) -> list[str]:
    return matrix("owned", kind).stdout.split()


def test_every_backend_and_every_tool_has_a_row(described: dict[str, Any]) -> None:
    options = (ROOT / "meson.options").read_text(encoding="utf-8")
    choices = re.search(r"option\('backends'.*?choices: \[(.*?)\]", options, re.DOTALL)
    assert choices is not None
    backends = set(re.findall(r"'(\w+)'", choices.group(1))) - {"auto"}
    tools = {path.name for path in (ROOT / "ci/tools").glob("*")}
    assert "cpu" in backends
    assert backends | tools <= set(described)


def test_what_rows_own_is_there_and_no_package_of_a_backend_is_left_out() -> None:
    packages = owned("packages")
    assert all((ROOT / path / "pyproject.toml").is_file() for path in packages)
    assert all((ROOT / path).exists() for path in owned("tests"))
    marks = [
        path.parent.relative_to(ROOT).as_posix()
        for path in (ROOT / "plugins").glob("*/pyproject.toml")
        if "backend_package.py" in path.read_text(encoding="utf-8")
    ]
    assert sorted(packages) == sorted(marks)


def test_the_table_has_each_row_and_says_why_one_is_skipped(described: dict[str, Any]) -> None:
    shown = matrix().stdout
    for name, row in described.items():
        assert re.search(rf"^{name} ", shown, re.MULTILINE)
        for cell in row["here"].values():
            assert cell in shown
            if cell.startswith("skip"):
                assert len(cell) > len("skip: because")
        if "skip" in row["workflow"].values():
            assert row["skipped elsewhere"]


def test_the_workflow_covers_the_platforms_with_scripts_that_are_there(
    described: dict[str, Any],
) -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    assert "NEVER RUN YET" in text
    (job,) = yaml.safe_load(text)["jobs"].values()
    platforms = [entry["platform"] for entry in job["strategy"]["matrix"]["include"]]
    assert platforms == list(described["cpu"]["workflow"])
    commands = "\n".join(step.get("run", "") for step in job["steps"])
    scripts = set(re.findall(r"ci/\w+", commands))
    assert {"ci/matrix", "ci/setup", "ci/wheel"} <= scripts
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)


def test_an_unknown_row_is_refused() -> None:
    made = matrix("run", "cpu", "punchcards")
    assert made.returncode != 0
    assert "no row 'punchcards'" in made.stderr
    assert "cpu" in made.stderr


# -- rows that were made up -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with the scripts, and rows of its own."""
    root = tmp_path_factory.mktemp("tree")
    (root / "ci/tools").mkdir(parents=True)
    for script in [*(ROOT / "ci").glob("*.py"), ROOT / "ci/overlay", ROOT / "ci/common.sh"]:
        shutil.copy(script, root / "ci")
    package = root / "plugins/llamacffi-plugin"
    (package / "llamacffi_plugin").mkdir(parents=True)
    (package / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (package / "llamacffi_plugin/__init__.py").write_text(PLUGIN, encoding="utf-8")
    (root / "ci/rows.py").rename(root / "ci/rows_here.py")
    (root / "ci/rows.py").write_text(ROWS, encoding="utf-8")
    for name, code in TOOLS.items():
        (root / "ci/tools" / name).write_text(code, encoding="utf-8")
    for name, code in TESTS.items():
        test = f"import os\ndef test():\n    {code}\n"
        (root / f"test_{name}.py").write_text(test, encoding="utf-8")
    return root


def outcomes(root: Path, *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit status, and the outcome and words of each step that was tried."""
    made = matrix("run", *arguments, "--json", root=root)
    results = json.loads(made.stdout[made.stdout.index("\n[\n") :].partition("\n]")[0] + "]")
    return made.returncode, {r["step"]: (r["outcome"], r["words"]) for r in results}


def test_a_row_is_prepared_loaded_generates_and_is_tested(scratch: Path) -> None:
    status, steps = outcomes(scratch, "good")
    assert list(steps) == ["prepare", "build", "load", "generate", "test"]
    assert {outcome for outcome, _ in steps.values()} == {"done"}, steps
    assert status == 0
    assert steps["load"][1].endswith("devices: CPU")
    assert steps["generate"][1] == "the same text as the CPU's"


@pytest.mark.slow
def test_a_package_is_installed_into_an_environment_of_its_own(scratch: Path) -> None:
    status, steps = outcomes(scratch, "plugin", "--until", "generate")
    assert status == 0, steps
    assert steps["build"] == ("done", "plugins/llamacffi-plugin")
    assert steps["generate"] == ("done", "the same text as the CPU's")
    assert (scratch / "build-plugins/plugin").is_dir()
    with pytest.raises(PackageNotFoundError):
        distribution("llamacffi-plugin")


def test_it_ends_where_it_is_told_to(scratch: Path) -> None:
    made = matrix("run", "good", "--until", "load", root=scratch)
    assert made.returncode == 0
    assert "the whole row" in made.stdout
    assert "generate" not in made.stdout


@pytest.mark.parametrize(
    ("row", "step", "words"),
    [
        ("failing", "test", "status 1"),
        ("broken", "prepare", "ended with status 3"),
        ("card", "load", "expected the reason 'no device'"),
        ("unknown", "load", "no library of 'none' is installed"),
    ],
)
def test_a_step_that_fails_ends_the_row_and_is_the_exit_status(
    scratch: Path, row: str, step: str, words: str
) -> None:
    status, steps = outcomes(scratch, row)
    assert status == 1
    assert list(steps)[-1] == step
    assert steps[step][0] == "FAILED"
    assert words in steps[step][1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("absent", "tools/absent: not on this planet"),
        ("programs", "no no-such-program on the PATH"),
        ("elsewhere", "it is not a VAX"),
    ],
)
def test_a_row_that_cannot_be_done_here_is_skipped(scratch: Path, row: str, words: str) -> None:
    status, steps = outcomes(scratch, row)
    assert status == 0
    ((outcome, said),) = steps.values()
    assert outcome == "skipped"
    assert words in said


def test_another_text_than_the_cpu_s_is_a_failure(scratch: Path, tmp_path: Path) -> None:
    root = shutil.copytree(scratch, tmp_path / "tree")
    # The CPU alone is asked as "cpu", the row's library as "cpu:VARIANT".
    code = "import json, sys\nprint(json.dumps({'text': sys.argv[1]}))"
    (root / "ci/generate.py").write_text(code, encoding="utf-8")
    status, steps = outcomes(root, "good")
    assert status == 1
    assert steps["generate"][0] == "FAILED"
    assert "the CPU with 'cpu'" in steps["generate"][1]
    assert "test" not in steps


def test_a_failure_does_not_keep_the_next_row_from_being_done(scratch: Path) -> None:
    made = matrix("run", "broken", "absent", "good", "--until", "build", root=scratch)
    assert made.returncode == 1
    assert re.search(r"^broken +prepare +FAILED", made.stdout, re.MULTILINE)
    assert re.search(r"^absent +prepare +skipped", made.stdout, re.MULTILINE)
    assert re.search(r"^good +build +done", made.stdout, re.MULTILINE)
    assert "ci/backend broken" in made.stdout
