"""Which backend "auto" takes, and who gets a software renderer, with stand-ins for devices."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import llamacffi
from llamacffi.backends import Backend, Device, choice, choose, fitness, software
from llamacffi.backends.devices import Inventory, inventory
from llamacffi.errors import BackendUnavailableError, ParameterError
from llamacffi.model_params import ModelParams
from llamacffi.native.library import Library, open_library

GPU = Device("Vulkan0", "a real GPU", "gpu", 2**33, 2**34)
INTEGRATED = Device("Vulkan0", "an integrated GPU", "igpu", 2**33, 2**34)
RENDERER = Device("Vulkan1", "llvmpipe", "software", 2**30, 2**31)
CPU = Device("CPU", "a processor", "cpu", 2**30, 2**31)
Offer = Callable[..., None]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Offer:
    """Register backends: copies of the CPU's library, said to find the devices given."""
    real = choose("cpu").path
    found: dict[Path, Inventory] = {}
    offered: list[Backend] = []

    def look(path: Path) -> Inventory:
        return found.get(path) or inventory(open_library(path))

    def add(
        name: str, devices: Iterable[Device] = (), priority: int = 0, problem: str = "",
        needs: tuple[str, ...] = ("gpu", "igpu"),
    ) -> None:  # fmt: skip
        path = (tmp_path / f"libllama-{name}.so").resolve()
        shutil.copy(real, path)
        found[path] = Inventory((*devices, CPU), problem)
        offered.append(Backend(name, lambda: [path], priority, needs))

    monkeypatch.setattr(choice, "_open_here", look)
    monkeypatch.setattr(choice, "probe_library", look)
    monkeypatch.setattr("llamacffi.plugins.collect", lambda hook, builtin, kind: offered)
    add("cpu", needs=())
    return add


def chosen() -> str:
    return choose("auto").path.stem.removeprefix("libllama-")


def test_auto_prefers_a_gpu_to_the_cpu(offer: Offer) -> None:
    offer("vulkan", [GPU], priority=100)
    assert chosen() == "vulkan"


def test_auto_prefers_an_integrated_gpu_to_the_cpu(offer: Offer) -> None:
    offer("vulkan", [INTEGRATED], priority=100)
    assert chosen() == "vulkan"


def test_auto_prefers_a_real_gpu_to_an_integrated_one_of_higher_priority(
    offer: Offer, caplog: pytest.LogCaptureFixture
) -> None:
    offer("vendor", [INTEGRATED], priority=300)
    offer("vulkan", [GPU], priority=100)
    with caplog.at_level(logging.INFO, "llamacffi.backends"):
        assert chosen() == "vulkan"
    assert "vendor: its GPU is an integrated one" in caplog.text


def test_auto_takes_the_first_of_two_integrated_gpus(offer: Offer) -> None:
    offer("vulkan", [INTEGRATED], priority=100)
    offer("vendor", [INTEGRATED], priority=300)
    assert chosen() == "vendor"


def test_auto_takes_the_vendors_own_of_two_real_gpus(offer: Offer) -> None:
    offer("vulkan", [GPU], priority=100)
    offer("vendor", [GPU, INTEGRATED], priority=300)
    assert chosen() == "vendor"


def test_auto_leaves_out_what_only_its_users_should_choose(offer: Offer) -> None:
    offer("odd", [GPU], priority=-10)
    assert chosen() == "cpu"


@pytest.mark.parametrize("variable", [None, "0"])
def test_auto_never_takes_a_software_renderer(
    offer: Offer, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv(software.VISIBLE_DEVICES_VARIABLE, variable)
    offer("vulkan", [RENDERER], priority=100)
    assert chosen() == "cpu"
    with pytest.raises(ParameterError, match="not 'Vulkan1'"):
        ModelParams(devices=["Vulkan1"]).to_native(choose("auto", ["Vulkan1"]))


def test_a_software_renderer_is_used_only_if_asked_for_by_name(offer: Offer) -> None:
    offer("vulkan", [RENDERER], priority=100)
    report = next(r for r in llamacffi.backends() if r.name == "vulkan")
    assert not report.usable
    for words in ("software renderer", "only if asked for by name", 'devices=["Vulkan1"]'):
        assert words in str(report)
    for devices in ((), ["Vulkan0"], ["CPU"]):
        with pytest.raises(BackendUnavailableError, match="only a software renderer.*llvmpipe"):
            choose("vulkan", devices)
    assert "vulkan" in choose("vulkan", ["Vulkan1"]).path.name


def test_a_software_renderer_is_used_if_the_variable_asks(
    offer: Offer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    offer("vulkan", [RENDERER], priority=100)
    monkeypatch.setenv(software.VISIBLE_DEVICES_VARIABLE, "0")
    with caplog.at_level(logging.INFO, "llamacffi.backends"):
        assert "vulkan" in choose("vulkan").path.name
    assert "software renderer that was asked for: Vulkan1 (llvmpipe" in caplog.text
    report = next(r for r in llamacffi.backends() if r.name == "vulkan")
    assert "Vulkan1 (llvmpipe, software, 1.0 of 2.0 GiB free)" in str(report)


def test_the_reason_is_the_drivers_own(offer: Offer) -> None:
    offer("vulkan", problem="libvulkan.so.1: cannot open", priority=100)
    with pytest.raises(BackendUnavailableError, match=r"no device.*libvulkan\.so\.1: cannot open"):
        choose("vulkan")
    assert chosen() == "cpu"


@pytest.mark.parametrize(
    ("found", "variable", "split_mode", "used"),
    [
        ([GPU, CPU], None, "layer", None),
        ([RENDERER, CPU], None, "layer", None),
        ([RENDERER, CPU], None, "tensor", []),
        ([GPU, RENDERER, CPU], None, "layer", None),
        ([GPU, RENDERER, CPU], None, "tensor", ["Vulkan0"]),
        ([GPU, RENDERER, CPU], "0,1", "layer", ["Vulkan0", "Vulkan1"]),
        ([RENDERER, CPU], "0", "none", ["Vulkan1"]),
    ],
)
def test_devices_of_a_model_that_names_none(
    found: list[Device], variable: str | None, split_mode: str, used: list[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv(software.VISIBLE_DEVICES_VARIABLE, raising=False)
    if variable:
        monkeypatch.setenv(software.VISIBLE_DEVICES_VARIABLE, variable)
    assert software.default_devices(found, split_mode) == used


def test_what_counts_as_integrated() -> None:
    assert fitness.is_integrated({"igpu", "cpu"})
    assert not fitness.is_integrated({"igpu", "gpu"})
    assert not fitness.is_integrated({"cpu"})


def test_the_cpu_has_no_problem_to_report() -> None:
    found = inventory(choose("cpu"))
    assert found.problem == ""
    assert [device.type for device in found.devices] == ["cpu"]


CRASHING = """
#include <stdlib.h>
__attribute__((constructor)) static void crash(void) { abort(); }
"""


def test_a_driver_that_crashes_does_not_take_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source, library = tmp_path / "crash.c", tmp_path / "libllama-crash.so"
    source.write_text(CRASHING)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    cpu = choose("cpu")
    offers = [
        Backend("crash", lambda: [library], 100, ("gpu",)),
        Backend("cpu", lambda: [cpu.path]),
    ]
    monkeypatch.setattr("llamacffi.plugins.collect", lambda hook, builtin, kind: offers)
    assert choose("auto") is cpu
    with pytest.raises(BackendUnavailableError, match="crashed with SIGABRT"):
        choose("crash")
    crash = next(report for report in llamacffi.backends() if report.name == "crash")
    assert "crashed with SIGABRT" in str(crash.reason)


def test_a_driver_is_asked_once(offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    offer("vulkan", priority=100)
    asked: list[Path] = []
    look = choice.probe_library
    monkeypatch.setattr(choice, "probe_library", lambda path: asked.append(path) or look(path))
    monkeypatch.setattr(choice, "is_open", lambda path: False)
    assert [chosen(), chosen()] == ["cpu", "cpu"]
    assert len(asked) == 1
    monkeypatch.setenv("VK_ICD_FILENAMES", "another.json")
    assert chosen() == "cpu"
    assert len(asked) == 2


def test_auto_opens_a_library_itself_where_no_child_can_be_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path / "libllama-gpu.so"
    shutil.copy(choose("cpu").path, copy)
    opened: list[Library] = []

    def look(path: Path) -> Inventory:
        opened.append(open_library(path))
        return Inventory((GPU,))

    offers = [Backend("gpu", lambda: [copy], 100, ("gpu",))]
    monkeypatch.setattr("llamacffi.plugins.collect", lambda hook, builtin, kind: offers)
    monkeypatch.setattr(choice, "_open_here", look)
    monkeypatch.setattr(sys, "executable", "")
    assert choose("auto") is opened[0]
