"""A TOML file that says which models are served, and how many at a time."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from llamacffi.errors import ParameterError
from llamacffi.server.model_spec import ModelSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["ModelConfig", "read_model_config"]

_STRICT = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
_TYPES = get_type_hints(ModelSpec)
_FIELDS: dict[str, Any] = {
    field.name: (_TYPES[field.name], ... if field.default is dataclasses.MISSING else None)
    for field in dataclasses.fields(ModelSpec)
    if field.name != "id"
}
# How pydantic names the parts of `int | Literal["auto"]`, beside the key.
_UNION_PARTS = ("int", "literal['auto']")
_Entry: Any = create_model("_Entry", __config__=_STRICT, **_FIELDS)


class _File(BaseModel):
    model_config = _STRICT

    models_max: int | None = None
    idle_timeout: float | None = None
    load_timeout: float | None = None
    models: dict[str, _Entry] = Field(min_length=1)


@dataclass(frozen=True)
class ModelConfig:
    """What such a file says.

    Attributes:
        specs: The models, in the file's order.
        limits: Arguments of `ManyModels`, those that the file names.
    """

    specs: tuple[ModelSpec, ...]
    limits: Mapping[str, Any]


def read_model_config(path: Path, defaults: Mapping[str, Any] | None = None) -> ModelConfig:
    """Read a file of models.

    Args:
        path: The file: a table `models` with a table for each, whose keys are the names of
            ModelSpec's attributes; beside it `models_max`, `idle_timeout` and `load_timeout`.
        defaults: Attributes of ModelSpec for models that do not name them.

    Raises:
        ParameterError: It is no such file; the message names the key.
    """
    try:
        read = tomllib.loads(path.read_text(encoding="utf-8"))
        # As JSON, so that lists are read as tuples in spite of strictness.
        file = _File.model_validate_json(orjson.dumps(read))
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is no TOML: {error}.") from None
    except TypeError as error:  # a number of more than 64 bits
        raise ParameterError(f"{path}: {error}.") from None
    except ValidationError as error:
        raise ParameterError(f"{path}: {_complaint(error)}") from None
    specs = tuple(
        ModelSpec(id=name, **{**(defaults or {}), **entry.model_dump(exclude_unset=True)})
        for name, entry in file.models.items()
    )
    return ModelConfig(specs, file.model_dump(exclude_unset=True, exclude={"models"}))


def _complaint(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part not in _UNION_PARTS)
    if first["type"] == "extra_forbidden":
        known = _File if len(first["loc"]) == 1 else _Entry
        return f"{key}: there is no such key. There is {', '.join(known.model_fields)}."
    if first["type"] == "missing":
        return f"{key}: this key is missing."
    return f"{key} = {first['input']!r:.100}: {first['msg']}."
