"""Backends: what one is, which are here, and which one to use."""

from llamacffi.backends.backend import Backend, BackendReport, Device, LibraryReport
from llamacffi.backends.choice import AUTO, backends, choose

__all__ = ["AUTO", "Backend", "BackendReport", "Device", "LibraryReport", "backends", "choose"]
