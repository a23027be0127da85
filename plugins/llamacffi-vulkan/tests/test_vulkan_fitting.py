"""Layers and contexts fitted to a Vulkan device; one that has less memory than it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llamacffi
from llamacffi import ContextParams, Fit, Llama, Model
from llamacffi.backends import choose
from llamacffi.backends.devices import devices
from llamacffi.cli import main

MIB = 2**20
PROMPT = "The capital of France is Paris, and the capital of Italy is"
N_TOKENS = 8  # a software driver computes a few in a second


@pytest.fixture(scope="module")
def model_path() -> Path:
    return llamacffi.hub.resolve("smollm2")


@pytest.fixture
def margin() -> Callable[[int], int]:
    """The margin in MiB that leaves so many MiB of the device."""
    free = next(d.memory_free for d in devices(choose("vulkan")) if d.name == "Vulkan0") // MIB
    return lambda mebibytes: free - mebibytes


def generated(llama: Llama) -> str:
    answer = llama.create_completion(PROMPT, max_tokens=N_TOKENS, temperature=0)
    return str(answer["choices"][0]["text"])


@pytest.fixture(scope="module")
def expected(model_path: Path) -> Iterator[str]:
    with Llama(model_path, backend="cpu", n_ctx=256, n_threads=1) as llama:
        yield generated(llama)


def test_all_of_it_fits(model_path: Path, margin: Callable[[int], int]) -> None:
    with Model(model_path, backend="vulkan", n_gpu_layers="auto", fit=Fit(margin=0)) as model:
        assert model.plan is not None
        assert model.params.n_gpu_layers == -1
        assert (model.plan.n_gpu_layers, model.plan.fits) == (31, True)
        assert model.plan.devices[0].name == "Vulkan0"
        assert model.plan.devices[0].weights > 90 * MIB


def test_some_layers_fit(model_path: Path, margin: Callable[[int], int], expected: str) -> None:
    with Llama(
        model_path, backend="vulkan", n_ctx=256, fit_margin=margin(100), n_threads=1
    ) as llama:
        plan = llama.model.plan
        assert plan is not None
        assert 0 < plan.n_gpu_layers < 31
        assert plan.devices[0].needed <= 101 * MIB
        assert generated(llama) == expected


def test_nothing_fits(model_path: Path, margin: Callable[[int], int]) -> None:
    fit = Fit(ContextParams(n_ctx=256), margin=margin(-1000))
    with Model(model_path, backend="vulkan", n_gpu_layers="auto", fit=fit) as model:
        assert model.params.n_gpu_layers == 0


def test_the_context_is_shortened(model_path: Path, margin: Callable[[int], int]) -> None:
    fit = Fit(margin=margin(350), n_ctx_min=512)
    with Model(model_path, backend="vulkan", n_gpu_layers="auto", fit=fit) as model:
        assert model.plan is not None
        assert 512 <= model.plan.n_ctx < 8192
        assert model.plan.devices[0].needed <= 351 * MIB


def test_the_plan_is_shown(model_path: Path) -> None:
    from click.testing import CliRunner

    options = ["inspect", str(model_path), "--backend", "vulkan", "-c", "1024"]
    shown = CliRunner().invoke(main, options)
    assert shown.exit_code == 0, shown.output
    assert "\nVulkan0 " in shown.stdout
    assert " layers on devices; n_ctx 1024 (trained for 8192); " in shown.stdout
    memory = json.loads(CliRunner().invoke(main, [*options, "--json"]).stdout)["memory"]
    assert [place["name"] for place in memory["devices"]] == ["Vulkan0", "CPU"]


# ggml-vulkan refuses a larger buffer as if the device were full; it goes on reporting what is free.
LITTLE = {"GGML_VK_FORCE_MAX_BUFFER_SIZE": str(50 * MIB)}
CHILD = """
import json, logging, sys
from llamacffi import Llama, Model
from llamacffi.errors import DeviceMemoryError

path, prompt, n_tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
said = {}
try:
    Model(path, backend="vulkan", n_gpu_layers=-1)
except DeviceMemoryError as error:
    said |= {"message": str(error), "needed": error.needed, "free": error.free}
messages = []
class Keep(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())
logging.getLogger("llamacffi.fitting").addHandler(Keep(logging.WARNING))
with Llama(path, backend="vulkan", n_ctx=256, n_threads=1) as llama:
    said["n_gpu_layers"] = llama.model.plan.n_gpu_layers
    said["warnings"] = messages
    answer = llama.create_completion(prompt, max_tokens=n_tokens, temperature=0)
    said["text"] = answer["choices"][0]["text"]
print(json.dumps(said))
"""


def test_a_device_that_has_less_than_it_says(model_path: Path, expected: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(model_path), PROMPT, str(N_TOKENS)],
        env=os.environ | LITTLE,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    said: dict[str, Any] = json.loads(child.stdout)
    assert "Vulkan0 needs" in said["message"]
    assert said["needed"]["Vulkan0"] > 90 * MIB
    assert said["free"]["Vulkan0"] > 0
    assert 1 <= len(said["warnings"]) <= 4
    assert 0 <= said["n_gpu_layers"] < 31
    assert said["text"] == expected
