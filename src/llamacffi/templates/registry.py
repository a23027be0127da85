"""Templates by name: the built-in ones and the plugins'."""

from __future__ import annotations

import functools

from llamacffi import plugins
from llamacffi.errors import TemplateError
from llamacffi.templates import builtin
from llamacffi.templates.template import Template

__all__ = ["find_template", "templates"]


@functools.cache
def templates() -> dict[str, Template]:
    """Every registered template, by its name. A name that is taken stays with the first."""
    found: dict[str, Template] = {}
    for template in plugins.collect("register_templates", builtin, Template):  # type: ignore[type-abstract]
        found.setdefault(template.name, template)
    return found


def find_template(name: str) -> Template:
    """The template of this name.

    Raises:
        TemplateError: There is none.
        PluginError: The plugin of this name is broken.
    """
    found = templates().get(name)
    if found is None:
        aside = plugins.failure_of(name)
        raise TemplateError(
            f"No template is called {name!r}. There are {', '.join(templates())}.{aside}"
        )
    return found
