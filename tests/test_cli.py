"""The command `llamacffi`: what it prints, its exit codes, and that mistakes are one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import llamacffi
from llamacffi.cli import main
from tests.tiny_models import write_vocab_only

PROMPT = "The capital of France is"
Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: object, text: str | None = None) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], input=text)

    return invoke


def greedy(model: Path, *more: object) -> list[object]:
    return ["complete", model, "--temp", 0, "-n", 6, "-t", 1, "-c", 128, "--backend", "cpu", *more]


def test_version_and_help(run: Run) -> None:
    assert llamacffi.__version__ in run("--version").output
    shown = run("--help")
    assert shown.exit_code == 0
    for name in ("backends", "chat", "complete", "inspect", "plugins", "pull"):
        assert name in shown.output
        assert run(name, "--help").exit_code == 0
    assert run("nonsense").exit_code == 2


def test_completing(run: Run, model_path: Path) -> None:
    result = run(*greedy(model_path, PROMPT))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(" Paris")
    assert "first token after" in result.stderr
    quiet = run(*greedy(model_path, PROMPT, "--quiet"))
    assert (quiet.stdout, quiet.stderr) == (result.stdout, "")
    assert run(*greedy(model_path, "--quiet"), text=PROMPT).stdout == result.stdout
    echoed = run(*greedy(model_path, PROMPT, "--echo", "--quiet"))
    assert echoed.stdout == PROMPT + result.stdout
    stopped = run(*greedy(model_path, PROMPT, "--stop", "aris", "--stop", "never", "--quiet"))
    assert stopped.stdout == " P\n"


def test_completing_by_a_template_and_a_grammar(run: Run, model_path: Path, tmp_path: Path) -> None:
    grammar = tmp_path / "rules.gbnf"
    grammar.write_text('root ::= "yes" | "no"')
    chat = ["--template", "chatml", "--system", "Be terse.", "--quiet"]
    result = run(*greedy(model_path, "Is snow white?", *chat, "--grammar-file", grammar))
    assert result.exit_code == 0, result.output
    assert result.stdout in ("yes\n", "no\n")


def test_a_seed_repeats(run: Run, tiny_path: Path) -> None:
    command = ["complete", tiny_path, "hello", "-n", 8, "-t", 1, "-c", 64, "--quiet"]
    first = run(*command, "--seed", 1)
    assert first.exit_code == 0, first.output
    assert run(*command, "--seed", 1).stdout == first.stdout


@pytest.mark.usefixtures("own_choice")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--template", "nope"], "No template is called 'nope'"),
        (["--backend", "abacus"], "abacus"),
        (["--top-p", 7], "top_p|p=7"),
        (["--stop", ""], "non-empty"),
        (["-c", -5], "n_ctx=-5"),
    ],
)
def test_mistakes_are_one_line(run: Run, tiny_path: Path, more: list[object], message: str) -> None:
    result = run("complete", tiny_path, "hello", "-t", 1, "--quiet", *more)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert any(part in result.stderr for part in message.split("|"))
    assert "Traceback" not in result.output


def test_mistakes_in_the_arguments(run: Run, tiny_path: Path, tmp_path: Path) -> None:
    assert run("complete", tiny_path, "x", "--system", "y").exit_code == 2
    assert run("complete", tiny_path, "x", "--temp", "hot").exit_code == 2
    assert run("complete").exit_code == 2
    assert run("complete", tiny_path, "x", "--grammar-file", tmp_path / "none").exit_code == 2
    missing = run("complete", tmp_path / "none.gguf", "x")
    assert missing.exit_code == 1
    assert "none.gguf" in missing.stderr
    grammar = tmp_path / "bad.gbnf"
    grammar.write_text("root ::= (")
    bad = run("complete", tiny_path, "x", "-t", 1, "--grammar-file", grammar)
    assert (bad.exit_code, "grammar" in bad.stderr) == (1, True)
    empty = run("complete", tiny_path, "word " * 9000, "-c", 64, "-t", 1)
    assert (empty.exit_code, "256" in empty.stderr) == (1, True)


def test_inspecting(run: Run, model_path: Path) -> None:
    shown = run("inspect", model_path, "-c", 512, "--backend", "cpu")
    assert shown.exit_code == 0, shown.output
    assert "general.architecture = llama" in shown.stdout
    assert "n_ctx 512 (trained for 8192); fits" in shown.stdout
    assert "tokenizer.ggml.tokens = array of 49152 strings" in shown.stdout
    result = run("inspect", model_path, "--json", "--tensors")
    facts = json.loads(result.stdout)
    assert facts["n_tensors"] == len(facts["tensors"]) == 272
    assert facts["gguf_version"] == 3
    assert facts["n_params"] == sum(facts["types"].values())
    (host,) = facts["memory"]["devices"]
    assert host["free"] > host["needed"] > host["weights"] > 90e6
    assert (facts["memory"]["n_ctx"], facts["memory"]["fits"]) == (8192, True)
    assert "blk.0.attn_q.weight" in run("inspect", model_path, "--tensors").stdout


def test_inspecting_what_fits(run: Run, model_path: Path) -> None:
    options = ["--backend", "cpu", "--n-ctx", "auto", "-ngl", "auto", "--json"]
    memory = json.loads(run("inspect", model_path, *options).stdout)["memory"]
    assert (memory["n_ctx"], memory["n_gpu_layers"], memory["n_layers"]) == (8192, 0, 31)
    poor = run("inspect", model_path, *options, "--fit-target", 2**30)
    assert json.loads(poor.stdout)["memory"]["n_ctx"] == 4096
    unknown = run("inspect", model_path, "--device", "GPU77")
    assert (unknown.exit_code, "GPU77" in unknown.stderr) == (1, True)
    for wrong in ("autoo", "5.5", ""):
        assert run("inspect", model_path, "-ngl", wrong).exit_code == 2
        assert run("inspect", model_path, "--n-ctx", wrong).exit_code == 2


def test_inspecting_a_vocabulary(run: Run, tmp_path: Path) -> None:
    shown = run("inspect", write_vocab_only(tmp_path / "vocab.gguf"), "--backend", "cpu")
    assert shown.exit_code == 0, shown.output
    assert "No plan of the memory: " in shown.stdout
    assert "general.architecture = llama" in shown.stdout


def test_completing_in_a_fitted_context(run: Run, model_path: Path) -> None:
    fitted = run(*greedy(model_path, PROMPT, "--quiet", "--n-ctx", "auto", "-ngl", "auto"))
    assert fitted.exit_code == 0, fitted.output
    assert fitted.stdout.startswith(" Paris")


def test_inspecting_what_is_no_model(run: Run, tmp_path: Path) -> None:
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"junk" * 100)
    for path in (junk, tmp_path / "none.gguf", tmp_path):
        result = run("inspect", path)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")


def test_backends_and_plugins(run: Run) -> None:
    shown = run("backends")
    assert shown.exit_code == 0
    assert "cpu" in shown.stdout
    reports = json.loads(run("backends", "--json").stdout)
    (cpu,) = (report for report in reports if report["name"] == "cpu")
    assert cpu["usable"]
    assert cpu["reason"] is None
    listed = run("plugins")
    assert listed.exit_code == 0
    for name in ("backends: ", "samplers: greedy", "templates: chatml"):
        assert name in listed.stdout


def command(*arguments: object, text: str = "") -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "llamacffi", *map(str, arguments)]
    return subprocess.run(words, input=text, capture_output=True, text=True, timeout=120)


def test_as_a_process(model_path: Path, tmp_path: Path) -> None:
    child = command(*greedy(model_path, "--quiet"), text=PROMPT)
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.startswith(" Paris")
    child = command("complete", tmp_path / "none.gguf", "x")
    assert (child.returncode, child.stdout) == (1, "")
    assert child.stderr.startswith("Error: ")
    assert "Traceback" not in child.stderr


def test_a_reader_that_goes_away(model_path: Path) -> None:
    words = [sys.executable, "-m", "llamacffi", *map(str, greedy(model_path, PROMPT, "--quiet"))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        errors = child.stderr.read().decode()
    assert "Traceback" not in errors


def test_verbose_shows_the_native_log(model_path: Path) -> None:
    child = command("-v", *greedy(model_path, PROMPT))
    assert child.returncode == 0
    assert "llamacffi.native" in child.stderr
    assert child.stdout.startswith(" Paris")


def test_completing_with_llama_cpps_sampling_options(run: Run, model_path: Path) -> None:
    quiet = greedy(model_path, "A number: ", "--quiet")
    schema = run(*quiet, "--json-schema", '{"type": "integer", "minimum": 5, "maximum": 9}')
    assert schema.stdout.strip() in set("56789"), schema.output
    words = run(*quiet, "--grammar", 'root ::= " red" | " green"', "--logit-bias", "2+0.5")
    assert words.stdout.strip() in ("red", "green")
    lookup = run(*quiet, "--model-draft", "prompt-lookup", "--ignore-eos")
    assert lookup.stdout == run(*quiet, "--ignore-eos").stdout
    ordered = ["--samplers", "top_k;temperature", "--dry-multiplier", 0.8, "-s", 3]
    assert run(*quiet[:2], "x", "-n", 2, *ordered, "--quiet", "--temp", 1.5).exit_code == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--logit-bias", "five"],
        ["--samplers", "top_q"],
        ["--json-schema", "{"],
        ["--json-schema", '{"type": "array", "uniqueItems": true}'],
        ["--regex", "["],
        ["--top-p", 7],
        ["--structured-engine", "none", "--json-schema", "{}"],
    ],
)
def test_bad_sampling_options(run: Run, tiny_path: Path, options: list[Any]) -> None:
    result = run("complete", tiny_path, "x", "-t", 1, "--quiet", *options)
    assert result.exit_code in (1, 2)
    assert "Error" in result.output
    assert "Traceback" not in result.output
