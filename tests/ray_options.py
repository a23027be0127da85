"""What the tests of llamacffi.ray load."""

from __future__ import annotations

from pathlib import Path

from llamacffi.ray import EngineOptions
from tests.tiny_models import write_model

GREEDY = {"temperature": 0.0, "max_tokens": 10}
CHAT = [{"role": "user", "content": "Name a colour."}]


def engine_options(path: Path) -> EngineOptions:
    """In single precision: what is computed beside a request then does not change its tokens."""
    precise = {"type_k": "f32", "type_v": "f32", "flash_attention": "off"}
    return EngineOptions(
        str(path),
        n_threads=1,
        model_params={"backend": "cpu"},
        engine_params={"n_ctx": 2048, "n_parallel": 8, **precise},
    )


def encoder_options(path: Path) -> EngineOptions:
    """A tiny encoder, written to this path."""
    write_model(path, "bert")
    return EngineOptions(
        str(path), n_threads=1, model_params={"backend": "cpu"}, engine_params={"n_ctx": 64}
    )
