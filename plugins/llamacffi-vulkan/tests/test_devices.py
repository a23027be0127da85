"""Naming devices, and splitting a model between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llamacffi
from llamacffi import Device, Llama, Model
from llamacffi.errors import ParameterError

Child = Callable[..., Any]
# The same device twice: for ggml they are two, with buffers and queues of their own.
TWO_DEVICES = {"GGML_VK_VISIBLE_DEVICES": "0,0"}


def test_devices_have_names_memory_and_a_type(device: Device) -> None:
    assert device.name == "Vulkan0"
    assert device.type in ("gpu", "igpu", "software")
    assert 0 < device.memory_free <= device.memory_total
    assert device.description
    report = next(r for r in llamacffi.backends() if r.name == "vulkan")
    assert device.description in str(report)


def test_a_child_process_finds_the_same(device: Device) -> None:
    report = next(r for r in llamacffi.backends(probe=True) if r.name == "vulkan")
    found = report.libraries[0].devices[0]
    assert (found.name, found.description, found.type) == (
        device.name, device.description, device.type,
    )  # fmt: skip


def test_unknown_devices_are_refused_with_the_known_ones(
    device: Device, tiny_paths: dict[str, Path]
) -> None:
    for load in (Model, Llama):
        with pytest.raises(ParameterError, match=r"Vulkan0, CPU, not 'Vulkan9'"):
            load(str(tiny_paths["llama"]), backend="vulkan", devices=[device.name, "Vulkan9"])


def test_a_gpu_that_is_not_there(device: Device, tiny_paths: dict[str, Path]) -> None:
    for main_gpu in (1, -1):
        with pytest.raises(ParameterError, match=f"main_gpu={main_gpu}: there are 1 GPU devices"):
            Model(
                tiny_paths["llama"], backend="vulkan", devices=[device.name], split_mode="none",
                main_gpu=main_gpu,
            )  # fmt: skip


def test_rows_of_tensors_cannot_be_split(device: Device, tiny_paths: dict[str, Path]) -> None:
    with pytest.raises(ParameterError, match="split_mode='row': Vulkan0 cannot"):
        Model(tiny_paths["llama"], backend="vulkan", devices=[device.name], split_mode="row")


SPLIT = """
import sys
sys.path[:0] = sys.argv[2:]
from conftest import continue_in

path = sys.argv[1]
ways = [
    {},
    {"tensor_split": [1, 0]},
    {"tensor_split": [0, 1]},
    {"tensor_split": [1, 1]},
    {"tensor_split": [1, 1], "n_gpu_layers": 1},
    {"devices": ["Vulkan1", "Vulkan0"]},
    {"devices": ["Vulkan1"]},
    {"split_mode": "none", "main_gpu": 1},
    {"split_mode": "tensor"},
    {"n_gpu_layers": 1, "devices": ["Vulkan0", "CPU"]},
]

def text(**how):
    with Model(path, **how) as model, model.context(n_ctx=128, n_threads=1) as context:
        return continue_in(context, "abc the def", 16, temperature=0)

used = [device.name for device in report().library.devices]
answer = {
    "devices": used,
    "cpu": text(backend="cpu"),
    "texts": [text(backend="vulkan", **way) for way in ways],
    "third": refusal(lambda: Model(path, backend="vulkan", split_mode="none", main_gpu=2)),
}
"""


def test_a_model_split_between_two_devices(child: Child, tiny_paths: dict[str, Path]) -> None:
    tests = Path(__file__).parent
    found = child(SPLIT, tiny_paths["llama"], tests, tests.parents[2], **TWO_DEVICES)
    assert found["devices"] == ["Vulkan0", "Vulkan1", "CPU"]
    assert set(found["texts"]) == {found["cpu"]}
    assert found["third"][0] == "ParameterError"
    assert "there are 2 GPU devices" in found["third"][1]
