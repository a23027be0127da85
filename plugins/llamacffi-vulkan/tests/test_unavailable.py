"""No loader, no driver, a driver that fails or crashes: reasons, and a process that lives."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamacffi import Device

Child = Callable[..., Any]
# What each must leave behind: a report, a typed error, and "auto", which computes on the CPU.
ASK = """
import sys
path = sys.argv[1]
answer = {
    "report": str(report(probe=True)),
    "refusal": refusal(lambda: Model(path, backend="vulkan", devices=["Vulkan0"])),
}
with Model(path) as model:
    answer["auto"] = [device.name for device in model.available_devices]
"""


def test_no_loader(child: Child, tiny_paths: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "libvulkan.so.1").write_text("what is found before the real one, if there is one")
    found = child(ASK, tiny_paths["llama"], LD_LIBRARY_PATH=str(tmp_path))
    for text in (found["report"], found["refusal"][1]):
        assert "the Vulkan loader cannot be opened" in text
        assert "libvulkan.so.1" in text
        assert "libvulkan1" in text  # what to install
    assert found["refusal"][0] == "BackendUnavailableError"
    assert found["auto"] == ["CPU"]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"VK_DRIVER_FILES": "none.json", "VK_ICD_FILENAMES": "none.json"}, "no Vulkan driver"),
        ({"GGML_VK_VISIBLE_DEVICES": "7"}, "names device 7, and there are"),
        ({"GGML_VK_VISIBLE_DEVICES": "first"}, 'is "first" and names no device'),
        ({"GGML_VK_VISIBLE_DEVICES": ""}, 'is "" and names no device'),
    ],
)
def test_no_device(
    environment: dict[str, str], reason: str, child: Child, tiny_paths: dict[str, Path]
) -> None:
    found = child(ASK, tiny_paths["llama"], **environment)
    assert reason in found["report"]
    assert found["refusal"][0] == "BackendUnavailableError"
    assert reason in found["refusal"][1]
    assert found["auto"] == ["CPU"]


def test_a_software_renderer_has_to_be_named(
    device: Device, child: Child, tiny_paths: dict[str, Path]
) -> None:
    if device.type != "software":
        pytest.skip(f"{device} is a real GPU, which is used without being named")
    code = ASK.replace(', devices=["Vulkan0"]', "")
    found = child(code, tiny_paths["llama"])
    for text in (found["report"], found["refusal"][1]):
        assert "software renderer" in text
        assert 'devices=["Vulkan0"]' in text
    assert found["auto"] == ["CPU"]
    found = child(code, tiny_paths["llama"], GGML_VK_VISIBLE_DEVICES="0")
    assert "vulkan: usable" in found["report"]
    assert found["refusal"] is None
    assert found["auto"] == ["CPU"]


# A driver as the loader wants it, as far as FAULT lets it come.
DRIVER = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
typedef void (*function)(void);
static int fail(void) { return -3; /* VK_ERROR_INITIALIZATION_FAILED */ }
static int crash(void) { abort(); }
static int nothing(void *a, uint32_t *count, void *b) { *count = 0; return 0; }
static int create(const void *info, const void *allocator, void **instance) {
    static uintptr_t object = 0x01CDC0DE; /* ICD_LOADER_MAGIC */
    *instance = &object;
    return 0;
}
static void destroy(void *instance, const void *allocator) {}
int vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) { *version = 5; return 0; }
static int version(uint32_t *v) { *v = (1u << 22) | (3u << 12); return 0; }
function vk_icdGetInstanceProcAddr(void *instance, const char *name) {
    if (!strcmp(name, "vkCreateInstance")) return (function) create;
    if (!strcmp(name, "vkDestroyInstance")) return (function) destroy;
    if (!strcmp(name, "vkEnumerateInstanceVersion")) return (function) version;
    if (!strcmp(name, "vkEnumerateInstanceExtensionProperties")) return (function) nothing;
    if (!strcmp(name, "vkEnumeratePhysicalDevices")) return (function) FAULT;
    if (!strncmp(name, "vk", 2) && instance) return (function) fail;
    return 0;
}
function vk_icdGetPhysicalDeviceProcAddr(void *instance, const char *name) { return 0; }
"""


def driver(folder: Path, fault: str) -> dict[str, str]:
    """Build a driver with a fault; returns the environment that makes it the only one."""
    source, library, manifest = (folder / f"driver.{kind}" for kind in ("c", "so", "json"))
    source.write_text(DRIVER)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-w", f"-DFAULT={fault}", "-o", library, source], check=True
    )
    icd = {"library_path": str(library), "api_version": "1.3.0"}
    manifest.write_text(json.dumps({"file_format_version": "1.0.0", "ICD": icd}))
    return {"VK_DRIVER_FILES": str(manifest), "VK_ICD_FILENAMES": str(manifest)}


def test_a_driver_that_fails(child: Child, tiny_paths: dict[str, Path], tmp_path: Path) -> None:
    found = child(ASK, tiny_paths["llama"], **driver(tmp_path, "fail"))
    assert "ErrorInitializationFailed" in found["report"]
    assert found["refusal"][0] == "BackendUnavailableError"
    assert "ErrorInitializationFailed" in found["refusal"][1]
    assert found["auto"] == ["CPU"]


def test_a_driver_that_crashes(child: Child, tiny_paths: dict[str, Path], tmp_path: Path) -> None:
    code = ASK.replace(
        'refusal(lambda: Model(path, backend="vulkan", devices=["Vulkan0"]))', "None"
    )
    assert code != ASK
    found = child(code, tiny_paths["llama"], **driver(tmp_path, "crash"))
    assert "crashed with SIGABRT" in found["report"]
    assert found["auto"] == ["CPU"]


SHORT_OF_MEMORY = """
import resource
import sys

path, large = sys.argv[1:]
how = {"backend": "vulkan", "devices": ["Vulkan0"], "load_mode": "none"}
Model(path, **how).close()  # the driver takes its own share first
with open("/proc/self/statm") as pages:
    used = int(pages.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 40 * 2**20,) * 2)
answer = {
    "large": refusal(lambda: Model(large, **how)),
    "small": refusal(lambda: Model(path, **how)),
}
"""


def test_too_little_memory(device: Device, child: Child, tiny_paths: dict[str, Path]) -> None:
    if device.type != "software":
        pytest.skip(f"the memory of {device} cannot be limited")
    from llamacffi import hub

    found = child(SHORT_OF_MEMORY, tiny_paths["llama"], hub.resolve("smollm2"))
    kind, text = found["large"]
    assert kind in ("ModelLoadError", "DeviceMemoryError")
    assert "Vulkan0 buffer" in text
    assert "n_gpu_layers" in text
    assert found["small"] is None
