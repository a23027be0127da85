"""Engines on the machines of a Ray cluster: replicas behind Ray Serve, batches with Ray Data.

It needs the extra `ray`.
"""

from __future__ import annotations

try:
    import ray as _ray
except ImportError as error:
    raise ImportError(
        "llamacffi.ray needs Ray, which is not installed: pip install 'llamacffi[ray]'."
    ) from error

from llamacffi.ray.client import AsyncEngineClient, EngineClient
from llamacffi.ray.data import ChatBatches, CompletionBatches, EmbeddingBatches
from llamacffi.ray.options import EngineOptions, ServeOptions
from llamacffi.ray.serve import application, http_application

__all__ = [
    "AsyncEngineClient",
    "ChatBatches",
    "CompletionBatches",
    "EmbeddingBatches",
    "EngineClient",
    "EngineOptions",
    "ServeOptions",
    "application",
    "http_application",
]

del _ray
