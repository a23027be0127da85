"""JSON schemas from what programmers have at hand: dictionaries, text, pydantic models, types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llamacffi.errors import SchemaError

__all__ = ["schema_of"]


def schema_of(source: Any) -> Any:
    """The JSON schema that `source` stands for.

    Args:
        source: A schema as a dictionary or as JSON text; a pydantic model; or a Python type
            (`list[int]`, a dataclass, a TypedDict, an Enum, a Literal, ...), which needs pydantic.

    Returns:
        A dictionary; or a boolean, which is a schema too.

    Raises:
        SchemaError: It stands for no schema.
    """
    if isinstance(source, Mapping | bool):
        return source
    if isinstance(source, str | bytes):
        try:
            return json.loads(source)
        except ValueError as error:
            raise SchemaError(f"The JSON schema is no JSON text: {error}.") from None
    describe = getattr(source, "model_json_schema", None)
    if describe is not None:
        return describe()
    try:
        import pydantic
    except ImportError:
        raise SchemaError(
            f"{source!r} as a schema needs pydantic: pip install pydantic. Or give a dictionary."
        ) from None
    try:
        return pydantic.TypeAdapter(source).json_schema()
    except pydantic.errors.PydanticUserError as error:
        raise SchemaError(f"{source!r} stands for no JSON schema: {error}") from None
