"""The rows of the matrix: what is built and run for each backend, and on which platforms.

This is the one place that says so. ci/matrix shows it, `ci/matrix run` and ci/backend do it,
ci/suite and ci/plugins leave to it what belongs to a row, and tests/test_matrix.py holds it against
Meson's options, the packages in plugins/ and the workflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STEPS = ("prepare", "build", "load", "generate", "test")

LINUX_X86, LINUX_ARM = "linux-x86_64", "linux-arm64"
MACOS, WINDOWS = "macos-arm64", "windows-x86_64"
PLATFORMS = (LINUX_X86, LINUX_ARM, MACOS, WINDOWS)
LINUX = (LINUX_X86, LINUX_ARM)

# How a row's libraries come to be; ci/row_steps.py has one function for each.
SETUP = "setup"  # ci/setup: into the environment that everything else stands on
WHEEL = "wheel"  # ci/wheel, and the wheel into an environment of its own
OPTIONS = "options"  # the core built with other Meson options, into an environment of its own
PACKAGE = "package"  # plugins/llamacffi-NAME into an environment of its own
NOTHING = "nothing"  # it is in the library that ci/setup built


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: What `ci/backend NAME` takes; ci/tools/NAME prepares for it, if there is such a file.
        what: One line about it.
        build: One of the ways above.
        backend: What `backend=` is when text is generated.
        platforms: Where it is run by the workflow.
        elsewhere: Why it is not on the other platforms.
        until: The last step that is done, for platforms on which not all are.
        programs: Names of which one must be on the PATH, where there is no ci/tools/NAME.
        device: A check of ci/machine.py that the steps from "generate" on need.
        unusable: A regular expression: the reason that "load" is to report without that device.
        options: Meson's, for OPTIONS.
        checks: Scripts that look at what was built, and their arguments, variables as in a shell.
        workers: RPC workers on the loopback that the model is spread over.
        environment: Variables for every step.
        without_device: More of them where the device is not there.
        tests: What pytest gets: paths from the repository's root.
    """

    name: str
    what: str
    build: str
    backend: str
    platforms: tuple[str, ...] = PLATFORMS
    elsewhere: str = ""
    until: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    device: str = ""
    unusable: str = ""
    options: tuple[str, ...] = ()
    checks: tuple[tuple[str, ...], ...] = ()
    workers: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    without_device: Mapping[str, str] = field(default_factory=dict)
    tests: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """The folder of its package; "" if it has none."""
        return f"plugins/llamacffi-{self.name}" if self.build == PACKAGE else ""


ROWS = (
    Row(
        "cpu",
        "the CPU library for this processor, and the whole test suite",
        SETUP,
        "cpu",
        until={WINDOWS: "generate"},  # the tests ask for signals, terminals and bash everywhere
        tests=("tests",),
    ),
    Row(
        "wheel",
        "the wheel's CPU libraries, one for each level of instruction sets",
        WHEEL,
        "cpu",
        platforms=(LINUX_X86, LINUX_ARM, MACOS),
        elsewhere="ci/wheel makes no wheel there yet",
        tests=("tests/test_packages.py",),
    ),
    Row(
        "blas",
        "OpenBLAS for prompts, beside the CPU library",
        OPTIONS,
        "blas",
        platforms=LINUX,
        elsewhere="on macOS the CPU library has Accelerate; on Windows it was not tried",
        options=("-Dbackends=cpu,blas",),
        tests=("tests/rows/test_blas.py",),
    ),
    Row(
        "metal",
        "Apple's GPUs",
        NOTHING,  # on macOS ci/setup builds it by default
        "metal",
        platforms=(MACOS,),
        elsewhere="Metal is on macOS only",
    ),
    Row(
        "vulkan",
        "GPUs of any vendor; without one, Mesa's software driver computes",
        PACKAGE,
        "vulkan",
        platforms=LINUX,
        elsewhere="ci/tools/vulkan knows Debian and its children only",
        environment={"GGML_VK_VISIBLE_DEVICES": "0"},  # a software driver has to be named
        tests=("plugins/llamacffi-vulkan/tests",),
    ),
    Row(
        "cuda",
        "NVIDIA GPUs; without one, a sample of the kernels is built for one architecture",
        PACKAGE,
        "cuda",
        platforms=LINUX,
        elsewhere="NVIDIA has no toolkit for macOS, and on Windows it was not tried",
        programs=("nvcc",),
        device="NVIDIA card",
        unusable="no CUDA device|finds no device",
        checks=(("ci/cuda-objects", "$LLAMACFFI_BUILD_DIR"),),
        environment={"LLAMACFFI_BUILD_DIR": "build-cuda"},
        without_device={
            "LLAMACFFI_BUILD_DIR": "build-cuda-sample",
            "LLAMACFFI_MESON_ARGS": "-Dgpu_sample=true -Dgpu_architectures=86-real",
        },
        tests=("plugins/llamacffi-cuda/tests",),
    ),
    Row(
        "rpc",
        "devices of other machines; here, two workers on the loopback share the layers",
        NOTHING,
        "cpu",
        platforms=(LINUX_X86, LINUX_ARM, MACOS),
        elsewhere="its tests kill and stop processes by signals",
        workers=2,
        tests=(
            "tests/test_rpc.py",
            "tests/test_rpc_endpoints.py",
            "tests/test_rpc_failures.py",
            "tests/test_rpc_server.py",
        ),
    ),
)
