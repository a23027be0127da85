"""What a worker is told, as JSON."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from llamacffi.sampling.params import DEFAULTS, SamplingParams
from llamacffi.server.loading import Loading
from llamacffi.server.settings import Settings
from llamacffi.server.workers.spec import WorkerSpec

__all__ = ["from_json", "to_json"]


def to_json(spec: WorkerSpec) -> bytes:
    """A spec in words."""
    told = {name: getattr(spec, name) for name in ("names", "log_level", "number", "socket")}
    settings = {field.name: getattr(spec.settings, field.name) for field in fields(Settings)}
    settings["sampling"] = _changed(spec.settings.sampling)
    told |= {"loading": asdict(spec.loading), "settings": settings}
    return json.dumps(told, default=os.fspath).encode()


def from_json(words: bytes) -> WorkerSpec:
    """The spec that the words describe."""
    told = json.loads(words)
    settings = _tuples(told.pop("settings"))
    sampling = _tuples(settings.pop("sampling"))
    if "logit_bias" in sampling:  # JSON has texts as keys
        sampling["logit_bias"] = {int(key): bias for key, bias in sampling["logit_bias"].items()}
    page = settings.pop("page")
    return WorkerSpec(
        loading=Loading(**told.pop("loading")),
        settings=Settings(
            **settings,
            sampling=SamplingParams(**sampling),
            page=None if page is None else Path(page),
        ),
        **_tuples(told),
    )


def _changed(sampling: SamplingParams) -> dict[str, Any]:
    """The parameters that are not at their defaults."""
    values = {field.name: getattr(sampling, field.name) for field in fields(sampling)}
    return {name: value for name, value in values.items() if value != getattr(DEFAULTS, name)}


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Lists as what they were; no argument of these is a list."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
