"""The cffi module that emit.py writes at build time."""

from typing import Any

COMMIT: str
ffi: Any
