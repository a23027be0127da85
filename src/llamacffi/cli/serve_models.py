"""The models of `llamacffi serve`: from arguments, or from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from llamacffi.server import ModelSpec
from llamacffi.server.model_config import ModelConfig, read_model_config
from llamacffi.server.model_spec import name_of

__all__ = ["config_of"]


def config_of(
    models: Sequence[str],
    aliases: Sequence[str],
    file: Path | None,
    options: Mapping[str, Any],
    limits: Mapping[str, Any],
) -> ModelConfig:
    """What is served.

    Args:
        models: Those that are named in the command.
        aliases: A name for one model, or NAME=MODEL.
        file: A file of models.
        options: Attributes of ModelSpec for all that do not say otherwise.
        limits: Arguments of ManyModels, before those of the file.
    """
    if bool(models) == bool(file):
        raise click.UsageError("Name the models to serve, or a file of them with --config.")
    if file is None:
        only = [_only(models[0], aliases, options)] if len(models) == 1 else None
        return ModelConfig(tuple(only or _several(models, aliases, options)), limits)
    if aliases:
        raise click.UsageError("--alias: the aliases of models in a file stand in the file.")
    read = read_model_config(file, options)
    return ModelConfig(read.specs, {**read.limits, **limits})


def _only(model: str, aliases: Sequence[str], options: Mapping[str, Any]) -> ModelSpec:
    name, *others = dict.fromkeys((*aliases, name_of(model)))
    return ModelSpec(name, model, tuple(others), **options)


def _several(
    models: Sequence[str], aliases: Sequence[str], options: Mapping[str, Any]
) -> list[ModelSpec]:
    of: dict[str, list[str]] = {model: [] for model in models}
    for alias in aliases:
        name, _, model = alias.partition("=")
        meant = [known for known in of if model in (known, name_of(known))]
        if len(meant) != 1:
            raise click.UsageError(
                f"--alias {alias}: with several models write NAME=MODEL, where MODEL is one of "
                f"{', '.join(map(name_of, of))}."
            )
        of[meant[0]].append(name)
    return [
        ModelSpec(name_of(model), model, tuple(names), **options) for model, names in of.items()
    ]
