"""Faults of an installation - a library from other sources, or none at all - and their mends."""

from __future__ import annotations

from pathlib import Path

from llamacffi import __version__, plugins
from llamacffi.backends.backend import Backend
from llamacffi.native.library import LibraryInfo, declared_commit

__all__ = ["OWN", "another_commit", "libraries", "missing", "package_of", "update"]

OWN = f"llamacffi {__version__}"


def package_of(backend: Backend) -> str:
    """The distribution that registered a backend, with its version: "llamacffi-vulkan 0.1.0"."""
    return plugins.distribution_of(backend) or OWN


def libraries(backend: Backend) -> list[Path]:
    """What `Backend.find` returns; nothing, and a mark on its plugin, if that raises."""
    try:
        return [Path(path) for path in backend.find()]
    except Exception as error:  # whatever a stranger's function raises must not stop the rest
        plugins.blame(backend, f"find of the backend {backend.name!r}", error)
        return []


def another_commit(info: LibraryInfo, package: str) -> str | None:
    """What is wrong if the library says that it was built from another commit of llama.cpp."""
    if info.commit in ("", declared_commit()):
        return None
    return (
        f"{info.path.name} of {package} is built from llama.cpp {info.commit}, but {OWN} is made "
        f"for llama.cpp {declared_commit()}"
    )


def update(package: str) -> str:
    """How a distribution and llamacffi become of one commit again."""
    if package == OWN:
        return "reinstall llamacffi: pip install --force-reinstall llamacffi."
    return f"pip install --upgrade llamacffi {package.split()[0]}."


def missing(packages: list[str], remedy: str) -> tuple[str, str]:
    """The reason and the remedy where distributions register a backend without a library."""
    if not packages:
        return "no library is installed", remedy
    names = " ".join(package.split()[0] for package in packages)
    reason = f"{' and '.join(packages)} {'has' if len(packages) == 1 else 'have'} no library of it"
    return reason, f"pip install --force-reinstall --no-deps {names}. " + (
        f"If that does not help: {remedy}" if remedy else ""
    )
