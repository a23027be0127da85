"""Where a backend's libraries are: beside the Python package that ships them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["libraries_of"]

_LIBRARY = re.compile(r"libllama-([a-z0-9]+)(-.*)?\.(so|dylib|dll)")
FOLDER = "lib"


def libraries_of(package: str, backend: str) -> Callable[[], list[Path]]:
    """For `Backend.find`: the libraries of one backend in the folder `lib` of a package.

    Args:
        package: The importable package that ships them, e.g. "llamacffi_vulkan" or `__name__`.
        backend: The name that they were built under (-Dbackends), which their file names have.

    Returns:
        A function that looks when it is called, and returns the files; none if there are none.
    """

    def find() -> list[Path]:
        return sorted(
            entry
            for entry in _files(package)
            if (match := _LIBRARY.fullmatch(entry.name)) and match.group(1) == backend
        )

    return find


def _files(package: str) -> Iterable[Path]:
    import importlib.util

    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations if spec else None) or ():
        folder = Path(place) / FOLDER
        if folder.is_dir():
            return folder.iterdir()
    # meson-python's editable installs give a view over the build folder, with real files behind it.
    import importlib.resources

    view = importlib.resources.files(package) / FOLDER
    return [Path(str(entry)) for entry in view.iterdir()] if view.is_dir() else []
