"""Backends: what one is, which are here, and which one to use.

The module can be called: `llamacffi.backends()` is `llamacffi.backends.backends()`.
"""

import sys
from types import ModuleType

from llamacffi.backends.backend import Backend, BackendReport, Device, LibraryReport
from llamacffi.backends.choice import AUTO, backends, choose
from llamacffi.backends.files import libraries_of

__all__ = [
    "AUTO",
    "Backend",
    "BackendReport",
    "Device",
    "LibraryReport",
    "backends",
    "choose",
    "libraries_of",
]


class _CallableModule(ModuleType):
    """Lets the package and the function of the same public name live together."""

    def __call__(self, probe: bool = False) -> list[BackendReport]:
        return backends(probe)


sys.modules[__name__].__class__ = _CallableModule
