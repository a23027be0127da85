"""Samplers by name: the built-in ones and the plugins'."""

from __future__ import annotations

import functools

from llamacffi import plugins
from llamacffi.errors import PluginError
from llamacffi.sampling import builtin
from llamacffi.sampling.sampler import Sampler

__all__ = ["find_sampler", "samplers"]


@functools.cache
def samplers() -> dict[str, Sampler]:
    """Every registered sampler, by its name. A name that is taken stays with the first."""
    found: dict[str, Sampler] = {}
    for sampler in plugins.collect("register_samplers", builtin, Sampler):
        found.setdefault(sampler.name, sampler)
    return found


def find_sampler(name: str) -> Sampler:
    """The sampler of this name.

    Raises:
        PluginError: There is none, or its plugin is broken.
    """
    own = builtin_samplers().get(name)  # without looking for plugins, which takes milliseconds
    found = own or samplers().get(name)
    if found is None:
        aside = plugins.failure_of(name)
        raise PluginError(
            f"No sampler is called {name!r}. There are {', '.join(samplers())}.{aside}"
        )
    return found


@functools.cache
def builtin_samplers() -> dict[str, Sampler]:
    """llama.cpp's samplers, by name."""
    found: list[Sampler] = []
    builtin.register_samplers(found.append)
    return {sampler.name: sampler for sampler in found}
