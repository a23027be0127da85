"""The plugin that llamacffi finds: one sampler."""

from __future__ import annotations

from collections.abc import Callable

from llamacffi import Sampler, hookimpl


@hookimpl
def register_samplers(register: Callable[[Sampler], None]) -> None:
    """Register the sampler "llguidance"."""
    from llamacffi_llguidance.sampler import create  # llguidance itself is loaded when used

    description = "Hold the text to a JSON schema, a regular expression or a Lark grammar."
    register(Sampler("llguidance", create, description, ("json_schema", "regex", "lark")))
