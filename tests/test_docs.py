"""The documentation is true: its code runs, its links lead somewhere, and it leaves nothing out."""

from __future__ import annotations

import gc
import inspect
import itertools
import logging
import os
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

import llamacffi
from llamacffi import context_params, errors, hookspecs
from llamacffi.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"])
PAGES += sorted(DOCS.glob("*.md"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
RUN_ELSEWHERE = "ray_"  # by tests/test_ray.py, where Ray is installed

TIMEOUT_SECONDS = 120
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")


@contextmanager
def one_processor() -> Iterator[None]:
    """Let children of this thread run on one processor.

    llama.cpp's threads wait for each other by spinning: where other programs take the second
    processor away, two threads are many times slower than one.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {random.choice(sorted(before))})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(script: Path | str, *arguments: str, **environment: str) -> str:
    """Run a file or a module with Python; returns its standard output."""
    target = ["-m", script] if isinstance(script, str) else [str(script)]
    with one_processor():
        done = subprocess.run(
            [sys.executable, *target, *arguments],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    assert done.returncode == 0, done.stderr
    assert not re.search(r"Traceback|Warning", done.stderr), done.stderr
    return done.stdout


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    line: int
    code: str
    mark: str

    @property
    def not_run(self) -> str | None:
        """Why it is only compiled, if it is."""
        prefix, _, reason = self.mark.partition(":")
        return reason.strip() if prefix == "not run" else None

    @property
    def file(self) -> str | None:
        """The file that the block is the text of, in a longer example."""
        prefix, _, name = self.mark.partition(":")
        return name.strip() if prefix == "file" else None

    def compiled(self) -> Any:
        # Empty lines in front, so that a traceback names the line of the page.
        text = "\n" * self.line + self.code
        return compile(text, str(self.page), "exec", dont_inherit=True)


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        yield Block(page, match["language"], line, match["code"], match["mark"] or "")


def python_blocks(page: Path) -> Iterator[Block]:
    """Those that are to be run where they stand."""
    return (block for block in blocks(page) if block.language == "python" and not block.file)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def heading_ids(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# -- code -----------------------------------------------------------------------------------------


@pytest.fixture
def logging_kept() -> Iterator[None]:
    """Undo what a page does to logging, which is the whole process's."""
    loggers = [logging.getLogger(name) for name in (None, "llamacffi", "llamacffi.native")]
    before = [(log, log.level, list(log.handlers)) for log in loggers]
    yield
    for log, level, handlers in before:
        log.setLevel(level)
        log.handlers[:] = handlers


@pytest.mark.usefixtures("logging_kept")
@pytest.mark.parametrize("page", [p for p in PAGES if any(python_blocks(p))], ids=name_of)
def test_python_blocks_run(
    page: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(context_params, "default_threads", lambda: 1)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in python_blocks(page):
        compiled = block.compiled()
        if block.not_run is None:
            exec(compiled, namespace)
        else:
            assert len(block.not_run) > 10, f"say why {page.name}:{block.line} is not run"
    namespace.clear()
    gc.collect()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_take_these_arguments(page: Path) -> None:
    context = click.Context(main)
    for block in blocks(page):
        if block.language != "sh":
            continue
        for line in block.code.splitlines():
            program, *arguments = shlex.split(line, comments=True) or [""]
            if program == "llamacffi":
                command = main.get_command(context, arguments[0])
                assert command is not None, line
                command.make_context(arguments[0], arguments[1:])
            elif program.startswith("ci/"):
                assert os.access(ROOT / program, os.X_OK), f"{page.name}: {program} is not there"


@pytest.mark.parametrize(
    "example", [e for e in EXAMPLES if not e.name.startswith(RUN_ELSEWHERE)], ids=name_of
)
def test_examples_run(example: Path, model_path: Path) -> None:
    assert run(example, str(model_path), PYTHONWARNINGS="error").strip()


def test_the_example_plugin_works(model_path: Path, tmp_path: Path) -> None:
    files = {block.file: block.code for block in blocks(DOCS / "plugins.md") if block.file}
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    project = tomllib.loads(files["pyproject.toml"])["project"]
    # As pip would leave it, without a network and a build.
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head, encoding="utf-8")
    entries = project["entry-points"]["llamacffi"].items()
    lines = ["[llamacffi]", *(f"{name} = {module}" for name, module in entries)]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found_in = {"PYTHONPATH": str(tmp_path)}

    listed = run("llamacffi", "plugins", **found_in)
    assert "example (llamacffi-example 1.0): " in listed
    assert all(hook.__name__ in listed for hook in HOOKS)
    assert re.search(r"backends: .*\btuned\b", listed)
    assert re.search(r"samplers: .*\bavoid\b", listed)
    assert re.search(r"templates: .*\bplain\b", listed)

    used = run(tmp_path / "use.py", **found_in)
    assert "SamplerChain(avoid(word='city') -> greedy())" in used
    assert "tuned: unusable (llamacffi-example 1.0 has no library of it)" in used
    assert "put a library built by llamacffi's Meson files" in used

    cpu = next(report for report in llamacffi.backends() if report.name == "cpu")
    assert cpu.library is not None
    folder = tmp_path / "llamacffi_example" / "lib"
    folder.mkdir()
    for path in (cpu.library.path, cpu.library.path.with_suffix(".json")):
        (folder / path.name).symlink_to(path)
    assert "tuned: usable" in run(tmp_path / "use.py", **found_in)


# -- completeness ---------------------------------------------------------------------------------


def written_signature(function: Any) -> str:
    """The signature as somebody writes it, without the quotes of postponed annotations."""
    signature = inspect.signature(function)
    parameters = ", ".join(f"{p.name}: {p.annotation}" for p in signature.parameters.values())
    return f"{function.__name__}({parameters}) -> {signature.return_annotation}"


HOOKS = [
    value
    for name, value in vars(hookspecs).items()
    if inspect.isfunction(value) and hasattr(value, f"{hookspecs.PROJECT}_spec")
]


def test_there_are_hooks_to_check() -> None:
    assert {hook.__name__ for hook in HOOKS} == {
        name for name in hookspecs.__all__ if name.startswith("register_")
    }


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_every_hook_is_documented_with_its_signature(hook: Any) -> None:
    text = (DOCS / "plugins.md").read_text(encoding="utf-8")
    _, found, section = text.partition(f"### {hook.__name__}\n")
    assert found, f"docs/plugins.md has no section {hook.__name__}"
    assert f"```text\n{written_signature(hook)}\n```" in section.partition("\n### ")[0]


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_has_an_entry_in_troubleshooting(name: str) -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    if name == "LlamaCffiError":  # the base, which nobody raises
        assert name in text
    else:
        assert re.search(rf"^### {name}\n\n\S", text, re.M)


def test_every_error_with_an_entry_exists() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (\w+Error)$", text, re.M)) <= set(errors.__all__)


def test_every_build_option_is_documented() -> None:
    text = (DOCS / "building.md").read_text(encoding="utf-8")
    options = re.findall(r"^option\('(\w+)'", (ROOT / "meson.options").read_text(), re.M)
    assert options
    assert [name for name in options if f"| `{name}` |" not in text] == []


def test_every_environment_variable_is_documented() -> None:
    sources = itertools.chain((ROOT / "src").rglob("*.py"), (ROOT / "build_backend").glob("*.py"))
    used = {
        name
        for source in sources
        for name in re.findall(r"\"(LLAMACFFI_[A-Z_]+)\"", source.read_text(encoding="utf-8"))
    }
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert used
    assert {name for name in used if f"`{name}`" not in text} == set()


def test_every_command_is_documented() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    context = click.Context(main)
    assert [n for n in main.list_commands(context) if f"llamacffi {n}" not in text] == []


# -- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in heading_ids(file)):
            broken.append(target)
    assert broken == []


def test_every_page_is_reached_from_the_index() -> None:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    linked = {(DOCS / target.partition("#")[0]).resolve() for target in LINK.findall(text)}
    assert set(DOCS.glob("*.md")) - linked == {DOCS / "index.md"}


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=name_of)
def test_no_path_of_a_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"(?:/home/|/root/|/work/|/tmp/|[A-Z]:\\\\)\S*", text) == []
