"""What is shipped, as it is shipped: the wheel and third parties' plugins, freshly installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacffi.backends.processor import missing_features

ROOT = Path(__file__).parent.parent
PLUGINS = Path(__file__).parent
Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release wheel: LLAMACFFI_TEST_WHEEL, or made by ci/wheel from this tree."""
    if given := os.environ.get("LLAMACFFI_TEST_WHEEL"):
        return Path(given)
    output = tmp_path_factory.mktemp("dist")
    environment = os.environ | {"VENV": str(Path(sys.prefix))}
    made = subprocess.run(
        [ROOT / "ci/wheel", output], env=environment, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout[-4000:] + made.stderr[-4000:]
    (path,) = output.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def run(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a command in a fresh environment with the wheel and the sample plugins, no compiler."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    packages = [wheel, PLUGINS / "sample_plugin", PLUGINS / "broken_plugin"]
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *packages], check=True)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "LLAMACFFI_BACKEND", "LLAMACFFI_LIBRARY")
    }
    environment |= {"PATH": f"{folder / 'bin'}", "CC": "false", "CXX": "false"}

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        full = [python, "-c", *command] if len(command) == 1 else list(command)
        return subprocess.run(
            list(map(str, full)), capture_output=True, text=True, cwd=folder, env=environment
        )

    return run


def test_wheel_is_tied_to_no_python_version_and_has_an_honest_tag(wheel: Path) -> None:
    name, _, python, abi, platform = wheel.name.removesuffix(".whl").split("-")
    assert name == "llamacffi"
    assert (python, abi) == ("py3", "none")
    if sys.platform == "linux":
        assert platform.startswith("manylinux_")
        shown = subprocess.run(
            [sys.executable, "-m", "auditwheel", "show", wheel],
            check=True,
            capture_output=True,
            text=True,
        )
        tag = platform.split(".")[0]
        assert f'"{tag}"' in shown.stdout.replace("\n", " "), shown.stdout


def test_wheel_has_every_variant_and_nothing_of_the_build(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    libraries = {Path(name).stem for name in names if name.endswith(".so")}
    if os.uname().machine == "x86_64":
        levels = ("x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4-vnni")
        assert libraries == {f"libllama-cpu-{level}" for level in levels}
    assert "llamacffi/native/_llama.py" in names
    assert "llamacffi/py.typed" in names
    assert {"llamacffi/server/page/index.html", "llamacffi/server/page/view/dom.js"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    unwanted = (".h", ".cpp", ".inc", ".map", ".in", ".o", ".a")
    assert [name for name in names if name.endswith(unwanted)] == []


def test_wheel_names_no_folder_of_the_machine_it_was_built_on(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    place = str(ROOT).encode()
    assert [name for name in archive.namelist() if place in archive.read(name)] == []


def test_generates_from_the_wheel_without_a_compiler(run: Run, model_path: Path) -> None:
    assert shutil.which("python") is not None
    command = ("llamacffi", "complete", model_path, "The capital of France is")
    made = run(*command, "--temperature", "0", "-n", "4", "--quiet")
    assert made.returncode == 0, made.stderr
    assert "Paris" in made.stdout


def test_the_best_variant_is_chosen_and_each_can_be_forced(run: Run, model_path: Path) -> None:
    script = f"""
import llamacffi
from llamacffi.errors import BackendUnavailableError
(cpu,) = [r for r in llamacffi.backends() if r.name == "cpu"]
best = max((l for l in cpu.libraries if l.usable), key=lambda l: l.variant)
assert cpu.library == best, cpu
texts = {{}}
for library in cpu.libraries:
    name = "cpu:" + library.variant
    try:
        with llamacffi.Llama({str(model_path)!r}, backend=name, n_ctx=128) as llama:
            made = llama("The capital of France is", max_tokens=4, temperature=0)
            texts[library.variant] = made["choices"][0]["text"]
    except BackendUnavailableError as error:
        assert not library.usable and library.variant in str(error), error
print(sorted(texts))
assert all("Paris" in text for text in texts.values()), texts
"""
    made = run(script)
    assert made.returncode == 0, made.stderr
    assert "x86-64-v2" in made.stdout or os.uname().machine != "x86_64"
    if not missing_features(frozenset({"avx2", "fma"})):
        assert "x86-64-v3" in made.stdout


def test_third_party_backend_sampler_and_template_by_name(run: Run, model_path: Path) -> None:
    script = f"""
import llamacffi
from llamacffi.generation import Generation, run
from llamacffi.templates import find_template

model = llamacffi.Model({str(model_path)!r}, backend="sample")
chain = llamacffi.SamplerChain(model, [("without_letter", {{"letter": "e"}}), "sharp", "greedy"])
template = find_template("script")
prompt = template.render([{{"role": "user", "content": "Where is the Eiffel tower?"}}])
with model.context(n_ctx=256) as context:
    tokens = prompt.tokens(model.vocab)
    generation = Generation(model.vocab, chain, tokens, max_tokens=24, stop=prompt.stops)
    text = "".join(step.text for step in run(context, generation))
message = template.parse(text)
assert text and "e" not in text.lower(), text
assert message == {{"role": "assistant", "content": text.strip()}}
print(message)
"""
    made = run(script)
    assert made.returncode == 0, made.stderr


def test_command_line_uses_third_party_names(run: Run, model_path: Path) -> None:
    command = ("llamacffi", "complete", model_path, "Say hello", "--template", "script")
    made = run(*command, "--backend", "sample", "-n", "8", "--quiet")
    assert made.returncode == 0, made.stderr
    listed = run("llamacffi", "plugins")
    assert listed.returncode == 0, listed.stderr
    assert "sample (llamacffi-sample 1.2.3)" in listed.stdout
    for word in ("without_letter", "script", "register_templates"):
        assert word in listed.stdout


def test_broken_plugins_are_named_and_skipped_unless_asked_for(run: Run) -> None:
    listed = run("llamacffi", "plugins")
    assert "broken (llamacffi-broken 0.0.1): failed: ModuleNotFoundError" in listed.stdout
    assert "raising (llamacffi-broken 0.0.1): failed: register_backends: RuntimeError" in (
        listed.stdout
    ) or "raising (llamacffi-broken 0.0.1): failed: register_samplers" in (listed.stdout)
    script = """
import llamacffi
from llamacffi.backends import choose
from llamacffi.errors import BackendUnavailableError, PluginError
assert [r.usable for r in llamacffi.backends() if r.name == "cpu"] == [True]
for name, words in (("broken", "no_such_module"), ("raising", "on fire")):
    try:
        choose(name)
    except PluginError as error:
        assert name in str(error) and words in str(error), error
    else:
        raise AssertionError(name)
try:
    choose("unheard-of")
except BackendUnavailableError as error:
    assert "broken" in str(error) and "on fire" in str(error), error
"""
    made = run(script)
    assert made.returncode == 0, made.stderr
