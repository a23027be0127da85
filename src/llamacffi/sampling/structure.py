"""Holding a text to a structure: which sampler does it, and OpenAI's way to ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llamacffi.errors import ParameterError, PluginError, SchemaError
from llamacffi.sampling.registry import samplers
from llamacffi.sampling.schema_source import schema_of

if TYPE_CHECKING:
    from llamacffi.sampling.chain import SamplerChain
    from llamacffi.sampling.sampler import Sampler

__all__ = ["AUTO_ENGINE", "FORMATS", "engines_for", "hold_to", "schema_of_response_format"]

AUTO_ENGINE = "auto"
FORMATS = ("json_schema", "regex", "lark")


def engines_for(form: str, name: str = AUTO_ENGINE) -> list[Sampler]:
    """The samplers that hold a text to a structure of this form, the preferred ones first.

    Args:
        form: "json_schema", "regex", "lark" or "grammar".
        name: The name of the one that is wanted; "auto" for all, the plugins' before the built-in.

    Raises:
        PluginError: None is installed, or the one asked for cannot.
    """
    able = [sampler for sampler in samplers().values() if form in sampler.formats]
    chosen = [sampler for sampler in able if name in (AUTO_ENGINE, sampler.name)]
    if not chosen:
        raise PluginError(
            f"No sampler called {name!r} holds a text to a {form}. Those that can: "
            f"{', '.join(sampler.name for sampler in able) or 'none'}; "
            "pip install llamacffi-llguidance adds llguidance for json_schema, regex and lark."
        )
    return chosen[::-1]


def hold_to(chain: SamplerChain, form: str, value: Any, engine: str = AUTO_ENGINE) -> None:
    """Add to a chain what holds the text to a structure: the first engine that can do all of it.

    Args:
        chain: Where to add it.
        form: As in engines_for.
        value: The schema (see schema_of), expression or grammar.
        engine: As in engines_for.

    Raises:
        SchemaError: No engine can enforce the schema; the message has each one's reason.
    """
    described = schema_of(value) if form == "json_schema" else value
    refusals: list[SchemaError] = []
    for sampler in engines_for(form, engine):
        try:
            chain.add(sampler.name, **{form: described})
        except SchemaError as refusal:
            refusals.append(refusal)
        else:
            return
    if len(refusals) == 1:
        raise refusals[0]
    raise SchemaError("No engine can enforce the schema. " + " ".join(map(str, refusals)))


def schema_of_response_format(response_format: Mapping[str, Any] | None) -> Any:
    """The JSON schema that OpenAI's `response_format` asks for.

    Args:
        response_format: `{"type": "text"}`, `{"type": "json_object"}` (llama-cpp-python's
            `"schema"` beside it is taken, too) or `{"type": "json_schema", "json_schema": {"name":
            ..., "schema": {...}, "strict": ...}}`. With or without `strict`, the text is held to
            the schema.

    Returns:
        The schema; None where the text is free.

    Raises:
        ParameterError: It has another shape.
    """
    if response_format is None:
        return None
    if not isinstance(response_format, Mapping):
        raise ParameterError(f"response_format={response_format!r}: give a dictionary.")
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = response_format.get("schema")
        return {"type": "object"} if schema is None else schema
    if kind == "json_schema":
        described = response_format.get("json_schema")
        if isinstance(described, Mapping) and described.get("schema") is not None:
            return described["schema"]
        raise ParameterError(
            "response_format of type json_schema needs {'json_schema': {'name': ..., 'schema': "
            f"{{...}}}}}}, not {response_format!r}."
        )
    raise ParameterError(
        f"response_format has the type {kind!r}: choose text, json_object or json_schema."
    )
