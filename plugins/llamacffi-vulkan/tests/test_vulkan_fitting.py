"""Layers and contexts fitted to a Vulkan device; one that has less memory than it says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import llamacffi
from llamacffi import ContextParams, Engine, Fit, Model
from llamacffi.backends import choose
from llamacffi.backends.devices import devices
from llamacffi.cli import main

MIB = 2**20
PROMPT = "The capital of France is Paris, and the capital of Italy is"
N_TOKENS = 8  # a software renderer computes a few in a second
SMALL = ContextParams(n_ctx=256)
DEVICES = ("Vulkan0",)  # a software renderer is used only by name


@pytest.fixture(scope="module")
def model_path() -> Path:
    return llamacffi.hub.resolve("smollm2")


@pytest.fixture
def margin() -> Callable[[int], int]:
    """The margin in MiB that leaves so many MiB of the device."""
    free = (
        next(d.memory_free for d in devices(choose("vulkan", DEVICES)) if d.name in DEVICES) // MIB
    )
    return lambda mebibytes: free - mebibytes


def fitted(path: Path, fit: Fit) -> Model:
    return Model(path, backend="vulkan", devices=DEVICES, n_gpu_layers="auto", fit=fit)


def generated(model: Model) -> str:
    with Engine(model, n_parallel=1, n_ctx=256, n_threads=1) as engine:
        answer = engine.create_completion(PROMPT, max_tokens=N_TOKENS, temperature=0)
        return str(answer["choices"][0]["text"])


@pytest.fixture(scope="module")
def expected(model_path: Path) -> str:
    with Model(model_path, backend="cpu") as model:
        return generated(model)


def test_all_of_it_fits(model_path: Path) -> None:
    with fitted(model_path, Fit(SMALL, margin=0)) as model:
        assert model.plan is not None
        assert model.params.n_gpu_layers == -1
        assert (model.plan.n_gpu_layers, model.plan.fits) == (31, True)
        assert model.plan.devices[0].name == "Vulkan0"
        assert model.plan.devices[0].weights > 90 * MIB


def test_some_layers_fit(model_path: Path, margin: Callable[[int], int], expected: str) -> None:
    with fitted(model_path, Fit(SMALL, margin=margin(100))) as model:
        assert model.plan is not None
        assert 0 < model.plan.n_gpu_layers < 31
        assert model.plan.devices[0].needed <= 101 * MIB
        assert generated(model) == expected


def test_nothing_fits(model_path: Path, margin: Callable[[int], int]) -> None:
    with fitted(model_path, Fit(SMALL, margin=margin(-1000))) as model:
        assert model.params.n_gpu_layers == 0
        assert model.params.devices == ()  # without a layer, it would compute, too


def test_the_context_is_shortened(model_path: Path, margin: Callable[[int], int]) -> None:
    with fitted(model_path, Fit(margin=margin(220), n_ctx_min=512)) as model:
        assert model.plan is not None
        assert 512 <= model.plan.n_ctx < 8192
        assert model.plan.devices[0].needed <= 221 * MIB


def test_the_plan_is_shown(model_path: Path) -> None:
    options = [
        "inspect",
        str(model_path),
        "--backend",
        "vulkan",
        "-c",
        "1024",
        "--device",
        DEVICES[0],
    ]
    shown = CliRunner().invoke(main, options)
    assert shown.exit_code == 0, shown.output
    assert " layers on devices; n_ctx 1024 (trained for 8192); " in shown.stdout
    memory = json.loads(CliRunner().invoke(main, [*options, "--json"]).stdout)["memory"]
    assert [place["name"] for place in memory["devices"]] == ["Vulkan0", "CPU"]


# What a software renderer allocates is the process's memory, which can be limited. It goes on
# reporting what it always does.
CHILD = """
import json, logging, resource, sys
from llamacffi import ContextParams, Engine, Fit, Model
from llamacffi.errors import DeviceMemoryError

path, prompt, n_tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = {"backend": "vulkan", "devices": ("Vulkan0",)}
with Model(path, **options) as model, Engine(model, n_parallel=1, n_ctx=256, n_threads=1) as engine:
    engine.create_completion(prompt, max_tokens=1)  # compiles what it needs
status = open("/proc/self/status").read().split()
used = int(status[status.index("VmData:") + 1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (80 << 20), -1))
said = {"warnings": []}
try:
    Model(path, **options)
except DeviceMemoryError as error:
    said |= {"message": str(error), "needed": error.needed, "free": error.free}

class Keep(logging.Handler):
    def emit(self, record):
        said["warnings"].append(record.getMessage())

logging.getLogger("llamacffi.fitting").addHandler(Keep(logging.WARNING))
fit = Fit(ContextParams(n_ctx=256))
with Model(path, **options, n_gpu_layers="auto", fit=fit) as model:
    resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))
    said["n_gpu_layers"] = model.plan.n_gpu_layers
    with Engine(model, n_parallel=1, n_ctx=256, n_threads=1) as engine:
        answer = engine.create_completion(prompt, max_tokens=n_tokens, temperature=0)
    said["text"] = answer["choices"][0]["text"]
print(json.dumps(said))
"""


def test_a_device_that_has_less_than_it_says(model_path: Path, expected: str) -> None:
    if not any("llvmpipe" in d.description for d in devices(choose("vulkan", DEVICES))):
        pytest.skip("only a software renderer's memory can be limited")
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(model_path), PROMPT, str(N_TOKENS)],
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
    assert "Vulkan0 needs" in said["warnings"][0]
    assert 0 <= said["n_gpu_layers"] < 31
    assert said["text"] == expected
