"""How much memory a model will need, from its file's header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamacffi.gguf import GGUFFile

__all__ = ["MemoryEstimate", "estimate_memory"]

CACHE_BYTES = 2  # f16
FLOAT_BYTES = 4
UBATCH = 512


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a model needs, roughly.

    Attributes:
        weights: All tensors.
        cache: Keys and values of n_ctx tokens in f16; for a recurrent model too much.
        compute: Working space of one batch.
        n_ctx: The context length it was made for.
    """

    weights: int
    cache: int
    compute: int
    n_ctx: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.compute


def estimate_memory(file: GGUFFile, n_ctx: int) -> MemoryEstimate:
    """Estimate from the header; n_ctx 0 stands for the length that the model was trained for."""
    metadata = file.metadata(max_items=1024)
    prefix = str(metadata.get("general.architecture", ""))

    def number(key: str, default: int = 0) -> int:
        value = metadata.get(f"{prefix}.{key}", default)
        return int(value) if isinstance(value, int | float) else default

    n_ctx = n_ctx or number("context_length")
    n_embd, n_head = number("embedding_length"), number("attention.head_count", 1) or 1
    key_length = number("attention.key_length", n_embd // n_head)
    value_length = number("attention.value_length", n_embd // n_head)
    heads = _heads_kv(metadata, f"{prefix}.attention.head_count_kv", number("block_count"), n_head)
    cache = n_ctx * heads * (key_length + value_length) * CACHE_BYTES
    width = max(number("feed_forward_length"), 4 * n_embd)
    compute = UBATCH * (width * 3 + n_embd * 4) * FLOAT_BYTES
    weights = sum(tensor.size for tensor in file.tensors())
    return MemoryEstimate(weights, cache, compute, n_ctx)


def _heads_kv(metadata: Mapping[str, Any], key: str, n_layer: int, n_head: int) -> int:
    """Key and value heads of all layers together; the metadata has one number or one per layer."""
    value = metadata.get(key, n_head)
    return sum(value) if isinstance(value, list) else int(value) * n_layer
