"""Packages that ship a backend: built, installed, used, upgraded, damaged, removed.

They are plugins/llamacffi-vulkan with the CPU's library in it, which every machine can run.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import llamacffi
from llamacffi.native.library import declared_commit
from tests import wheels
from tests.wheels import ROOT, VERSION, Environment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.slow

LATER, OTHER_COMMIT = "99.0.0", "f" * 40
PACKAGES = ("llamacffi-vulkan", "llamacffi-cuda")
PATHS = re.compile(rb"(?:/home/|/root/|/tmp/|/work/|/build/)[\x21-\x7e]*")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = wheels.backend_project(tmp_path_factory.mktemp("plugins"))
    # What an editable install left there; no wheel is to have it.
    stale = folder / "src" / "llamacffi_vulkan" / "lib" / "libllama-cpu-stale.so"
    stale.parent.mkdir()
    stale.write_bytes(b"stale")
    return folder


@pytest.fixture(scope="module")
def index(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, and with later releases of it and of llamacffi."""
    folder = tmp_path_factory.mktemp("index")
    made = wheels.build_wheel(project, folder)
    trees = tmp_path_factory.mktemp("later")
    plugin = wheels.unpack(made, trees / "plugin")
    for tree in (plugin, wheels.unpacked_llamacffi(trees / "llamacffi")):
        wheels.pack(wheels.become(tree, LATER, OTHER_COMMIT), folder)
    return folder


@pytest.fixture
def wheel(index: Path) -> Path:
    (path,) = index.glob(f"llamacffi_vulkan-{VERSION}-*.whl")
    return path


@pytest.fixture
def environment(index: Path, tmp_path: Path) -> Environment:
    return Environment(tmp_path / "environment", index)


def generate(model: Path, backend: str) -> str:
    """A script that prints the backend's name and how its model goes on."""
    return f"""
import llamacffi
with llamacffi.Llama({str(model)!r}, backend={backend!r}, n_ctx=64, n_threads=1) as llama:
    made = llama("The capital of France is", max_tokens=4, temperature=0)
    print(llama.model.library.path.parent.parent.name, made["choices"][0]["text"])
"""


REFUSED = """
import llamacffi
from llamacffi.errors import BackendUnavailableError, LibraryMismatchError
try:
    llamacffi.Model({model!r}, backend="vulkan")
except LibraryMismatchError as error:
    assert isinstance(error, BackendUnavailableError)
    print(error)
"""


def test_installed_used_upgraded_put_right_and_removed(
    environment: Environment, model_path: Path
) -> None:
    refused = REFUSED.format(model=str(model_path))
    mend = "pip install --upgrade llamacffi llamacffi-vulkan"
    assert environment.report("vulkan").startswith("vulkan: not installed (not installed)")
    assert "pip install llamacffi-vulkan" in environment.report("vulkan")

    environment.install(f"llamacffi-vulkan=={VERSION}")
    assert environment.report("vulkan").startswith("vulkan: usable")
    assert f"vulkan (llamacffi-vulkan {VERSION})" in environment.llamacffi("plugins").stdout
    alone = environment.script(generate(model_path, "cpu"))
    assert alone.startswith("llamacffi ")
    assert "Paris" in alone
    text = alone.removeprefix("llamacffi ")
    assert environment.script(generate(model_path, "vulkan")) == f"llamacffi_vulkan {text}"
    assert environment.script(generate(model_path, "auto")) == f"llamacffi_vulkan {text}"

    # Upgraded alone, against pip's advice: each is named with its commit, the rest works on.
    alone_in_vain = environment.pip(
        "install", f"llamacffi=={VERSION}", f"llamacffi-vulkan=={LATER}"
    )
    assert alone_in_vain.returncode != 0
    assert f"llamacffi-vulkan {LATER} depends on llamacffi=={LATER}" in alone_in_vain.stdout
    environment.install("--no-deps", f"llamacffi-vulkan=={LATER}")
    checked = environment.pip("check")
    assert checked.returncode != 0
    assert f"llamacffi-vulkan {LATER} has requirement llamacffi=={LATER}" in checked.stdout
    report = environment.report("vulkan")
    assert report.startswith("vulkan: unusable")
    for words in (f"llamacffi-vulkan {LATER}", OTHER_COMMIT, f"llamacffi {VERSION}", mend):
        assert words in report
    assert declared_commit() in report
    error = environment.script(refused)
    assert OTHER_COMMIT in error
    assert declared_commit() in error
    assert mend in error
    assert environment.script(generate(model_path, "auto")) == alone

    # What the message says to do.
    environment.install(*mend.split()[2:])
    assert f"vulkan (llamacffi-vulkan {LATER})" in environment.llamacffi("plugins").stdout
    assert environment.pip("check").returncode == 0
    assert environment.script(generate(model_path, "vulkan")) == f"llamacffi_vulkan {text}"

    # The other way round: an old package beside a later llamacffi.
    environment.install("--no-deps", f"llamacffi-vulkan=={VERSION}")
    assert environment.pip("check").returncode != 0
    error = environment.script(refused)
    assert f"llamacffi-vulkan {VERSION} is built from llama.cpp {declared_commit()}" in error
    assert f"llamacffi {LATER} is made for llama.cpp {OTHER_COMMIT}" in error

    removed = environment.pip("uninstall", "--yes", "llamacffi-vulkan")
    assert removed.returncode == 0, removed.stderr
    assert not list(environment.place.glob("llamacffi_vulkan*"))
    assert environment.report("vulkan").startswith("vulkan: not installed (not installed)")
    assert "pip install llamacffi-vulkan" in environment.report("vulkan")


def test_llamacffi_upgraded_alone_is_told_by_pip(environment: Environment) -> None:
    environment.install(f"llamacffi-vulkan=={VERSION}")
    upgraded = environment.install("--upgrade", "llamacffi")
    assert f"llamacffi-vulkan {VERSION} requires llamacffi=={VERSION}" in upgraded.stderr
    assert f"you have llamacffi {LATER}" in upgraded.stderr
    assert environment.report("cpu").startswith("cpu: usable")


def test_auto_warns_of_a_package_of_another_commit(
    environment: Environment, model_path: Path
) -> None:
    environment.install("--no-deps", f"llamacffi-vulkan=={LATER}")
    made = environment.llamacffi("complete", model_path, "Hello", "-n", "1")
    assert made.returncode == 0, made.stderr
    assert "vulkan: unusable" in made.stderr
    assert "pip install --upgrade llamacffi llamacffi-vulkan" in made.stderr


@pytest.fixture(scope="module")
def installed(
    index: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Environment, Path, dict[Path, bytes]]:
    """An environment with the package, its library, and its files as they should be."""
    environment = Environment(tmp_path_factory.mktemp("installed"), index)
    environment.install(f"llamacffi-vulkan=={VERSION}")
    folder = environment.place / "llamacffi_vulkan" / "lib"
    library = next(folder.glob("*.so"))
    return environment, library, {file: file.read_bytes() for file in folder.iterdir()}


def cut_short(library: Path) -> None:
    library.write_bytes(library.read_bytes()[: 10**6])


def other_commit_inside(library: Path) -> None:
    library.write_bytes(library.read_bytes().replace(declared_commit().encode(), b"e" * 40))


def described_as(text: str) -> Callable[[Path], object]:
    return lambda library: library.with_suffix(".json").write_text(text, encoding="utf-8")


DAMAGES = {
    "no library": (
        Path.unlink,
        f"unusable .llamacffi-vulkan {VERSION} has no library.*pip install",
    ),
    "cut short": (cut_short, "unusable .* is cut short: .* Reinstall"),
    "empty": (lambda library: library.write_bytes(b""), "unusable .*could not be opened"),
    "other commit inside": (
        other_commit_inside,
        f"unusable .*llama.cpp {'e' * 40}.* does not match .*llama.cpp {declared_commit()}.*"
        "pip install --upgrade llamacffi llamacffi-vulkan",
    ),
    "no description": (lambda library: library.with_suffix(".json").unlink(), "usable"),
    "cut description": (described_as('{"commit": "'), "usable"),
    "description of another kind": (described_as('["commit", "features"]'), "usable"),
    "features of another type": (described_as('{"features": 7}'), "usable"),
    "commit of another type": (described_as('{"commit": null, "variant": []}'), "usable"),
}


@pytest.mark.parametrize("options", [(), ("--probe",)], ids=["", "probe"])
@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_installations_are_reported(
    installed: tuple[Environment, Path, dict[Path, bytes]],
    damage: Callable[[Path], object],
    said: str,
    options: tuple[str, ...],
) -> None:
    environment, library, files = installed
    try:
        damage(library)
        listed = environment.llamacffi("backends", *options)
    finally:
        for file, content in files.items():
            file.write_bytes(content)
    assert listed.returncode == 0, listed.stderr
    (line,) = [line for line in listed.stdout.splitlines() if line.startswith("vulkan: ")]
    assert re.match(f"vulkan: {said}", line), line
    assert "cpu: usable" in listed.stdout


# -- what is in the wheel -------------------------------------------------------------------------


def test_wheel_has_the_libraries_and_nothing_of_this_machine(wheel: Path, tmp_path: Path) -> None:
    assert re.search(r"-py3-none-\w+\.whl$", wheel.name)
    assert "none-any" not in wheel.name
    archive = zipfile.ZipFile(wheel)
    names = {name for name in archive.namelist() if ".dist-info/" not in name}
    libraries = {Path(name).name for name in names if "/lib/" in name}
    (cpu,) = [report for report in llamacffi.backends() if report.name == "cpu"]
    stems = {library.path.stem for library in cpu.libraries}
    assert libraries == {stem + suffix for stem in stems for suffix in (".so", ".json")}
    assert names == {f"llamacffi_vulkan/lib/{name}" for name in libraries} | {
        "llamacffi_vulkan/__init__.py",
        "llamacffi_vulkan/py.typed",
        "llamacffi_vulkan/licenses/LICENSE",
        "llamacffi_vulkan/licenses/llama.cpp.txt",
    }
    for name in archive.namelist():
        assert PATHS.findall(archive.read(name)) == [], name
    for name in names:
        if name.endswith(".so"):
            library = archive.extract(name, tmp_path)
            shown = ["readelf", "--dynamic", "--sections", "--wide", library]
            text = subprocess.run(shown, check=True, capture_output=True, text=True).stdout
            assert "(RPATH)" not in text
            assert "(RUNPATH)" not in text
            assert ".symtab" not in text, "not stripped"


def test_wheel_is_tied_to_llamacffi_of_its_version(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = f"llamacffi_vulkan-{VERSION}.dist-info"
    metadata = archive.read(f"{info}/METADATA").decode().splitlines()
    assert f"Version: {VERSION}" in metadata
    assert f"Requires-Dist: llamacffi=={VERSION}" in metadata
    assert "vulkan = llamacffi_vulkan" in archive.read(f"{info}/entry_points.txt").decode()


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_follow_the_pattern(name: str) -> None:
    """One hook for all; what differs is a name, and what it names is there."""
    folder = ROOT / "plugins" / name
    described = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    backend = name.removeprefix("llamacffi-")
    module = name.replace("-", "_")
    hooks = described["tool"]["hatch"]
    assert hooks["build"]["hooks"]["custom"]["backend"] == backend
    paths = {kind["hooks"]["custom"]["path"] for kind in (hooks["build"], hooks["metadata"])}
    assert {(folder / path).resolve() for path in paths} == {
        ROOT / "build_backend" / "backend_package.py"
    }
    assert described["project"]["entry-points"] == {"llamacffi": {backend: module}}
    assert set(described["project"]["dynamic"]) == {"version", "dependencies"}
    assert not list(folder.rglob("meson*"))
    code = (folder / "src" / module / "__init__.py").read_text(encoding="utf-8")
    assert f'libraries_of(__name__, "{backend}")' in code
    (priority,) = re.findall(r"priority=(\d+),", code)
    assert f"| {priority} | `{backend}`:" in (ROOT / "docs" / "plugins.md").read_text("utf-8")


# -- building -------------------------------------------------------------------------------------


def test_editable_install_finds_its_libraries(environment: Environment, tmp_path: Path) -> None:
    project = wheels.backend_project(tmp_path)
    wheels.build("install", "--editable", project, python=environment.python)
    assert environment.report("vulkan").startswith("vulkan: usable")
    where = environment.script("import llamacffi_vulkan; print(llamacffi_vulkan.__file__)")
    assert Path(where.strip()).is_relative_to(project)


def failure(project: Path, tmp_path: Path, kind: str, **environment: str) -> str:
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "-o", tmp_path]
    built = subprocess.run(
        [*command, project],
        capture_output=True,
        text=True,
        env=wheels.build_environment() | environment,
    )
    assert built.returncode != 0
    assert not list(tmp_path.iterdir())
    return built.stdout + built.stderr


def test_source_distribution_is_refused(project: Path, tmp_path: Path) -> None:
    said = failure(project, tmp_path, "sdist")
    assert "llamacffi-vulkan has no source distribution" in said
    assert "pip wheel --no-deps plugins/llamacffi-vulkan" in said


def test_failing_build_shows_why(project: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    wrong = {
        "LLAMACFFI_BUILD_DIR": str(tmp_path / "build"),
        "LLAMACFFI_MESON_ARGS": "-Dno_such_option=1",
    }
    said = failure(project, output, "wheel", **wrong)
    assert "no_such_option" in said
    assert "`meson setup` failed with exit status" in said
