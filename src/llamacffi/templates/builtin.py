"""The templates of this distribution, registered through the same hook as anyone's."""

from __future__ import annotations

from collections.abc import Callable

from llamacffi.hookspecs import hookimpl
from llamacffi.templates.jinja import JinjaTemplate
from llamacffi.templates.named import named_formats
from llamacffi.templates.template import Template

__all__ = ["register_templates"]


@hookimpl
def register_templates(register: Callable[[Template], None]) -> None:
    """Register the built-in templates."""
    for named in named_formats():
        register(JinjaTemplate(named.name, named.source, named.stops, named.description))
