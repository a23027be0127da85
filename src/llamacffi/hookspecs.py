"""The whole plugin contract.

A plugin is any importable module that a distribution names in the entry-point group `llamacffi`:

    [project.entry-points.llamacffi]
    my-plugin = "my_package.plugin"

and that implements some of the hooks below with `@llamacffi.hookimpl`. The built-in backends,
samplers and templates register through the same hooks. Hooks run when something is looked up,
never per token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from llamacffi.backends.backend import Backend
    from llamacffi.sampling.sampler import Sampler
    from llamacffi.templates.template import Template

__all__ = ["PROJECT", "hookimpl", "register_backends", "register_samplers", "register_templates"]

PROJECT = "llamacffi"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_backends(register: Callable[[Backend], None]) -> None:
    """Offer backends: call `register(Backend(...))` once for each.

    Several plugins may offer libraries under one name; all of them become candidates.
    """


@hookspec
def register_samplers(register: Callable[[Sampler], None]) -> None:
    """Offer samplers: call `register(Sampler(...))` once for each, under a name of its own."""


@hookspec
def register_templates(register: Callable[[Template], None]) -> None:
    """Offer prompt templates: call `register(template)` once for each, under a name of its own."""
