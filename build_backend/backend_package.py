"""Hatchling's hooks for the packages that ship one backend's libraries.

plugins/llamacffi-vulkan and its like name this file in their pyproject.toml. The libraries are
built by the root's Meson files, so such a package is built in this repository, published as wheels.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).resolve().parent.parent
# Hatchling loads this file by its path; its siblings are found as the root's own build finds them.
sys.path.insert(0, str(ROOT / "build_backend"))

from libraries import build_libraries, requirements  # noqa: E402 - after the path is set
from version import version  # noqa: E402 - likewise


class BackendMetadata(MetadataHookInterface):
    """The version is llamacffi's, and the package needs llamacffi of just this version."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in the version and the dependencies; those of the hook's table are added."""
        metadata["version"] = version()
        metadata["dependencies"] = [f"llamacffi=={version()}", *self.config.get("dependencies", [])]


class BackendBuild(BuildHookInterface[Any]):
    """Builds the libraries of the backend in the hook's table, and puts them into the wheel."""

    @property
    def _package(self) -> str:
        return self.metadata.name.replace("-", "_")

    def dependencies(self) -> list[str]:
        """What the build needs, for an isolated environment."""
        return requirements(ROOT)

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and name the files for the wheel."""
        if self.target_name != "wheel":
            raise RuntimeError(
                f"{self.metadata.name} has no source distribution: its libraries are built with "
                "the Meson files of llamacffi's repository. Build a wheel there: "
                f"pip wheel --no-deps plugins/{self.metadata.name}"
            )
        files = build_libraries(ROOT, self.config["backend"])
        if version == "editable":
            # The module is found in the source folder, and finds its libraries beside it.
            place = Path(self.root) / "src" / self._package / "lib"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            for file in files:
                shutil.copy2(file, place)
            return
        included = {str(file): f"{self._package}/lib/{file.name}" for file in files}
        for text in (ROOT / "LICENSE", *(ROOT / "licenses").iterdir()):
            included[str(text)] = f"{self._package}/licenses/{text.name}"
        build_data["force_include"].update(included)
        # Any Python 3 on this platform: the libraries are opened by CFFI, not linked to Python.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data.update(pure_python=False, tag=f"py3-none-{platform}")
