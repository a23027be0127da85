"""The plugin that llamacffi finds: one template."""

from __future__ import annotations

from collections.abc import Callable

from llamacffi import hookimpl
from llamacffi.templates import Template
from llamacffi_sql.template import SqlTemplate

__all__ = ["register_templates"]


@hookimpl
def register_templates(register: Callable[[Template], None]) -> None:
    """Register the template "sql"."""
    register(SqlTemplate())
