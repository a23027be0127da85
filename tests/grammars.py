"""Grammars in tests: nodes of them, and what a native sampler makes of candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import llamacffi
from llamacffi import Model, NativeNode

__all__ = ["applied", "candidates", "node_of", "token_of"]


ROW = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def node_of(model: Model, grammar: str, **parameters: Any) -> NativeNode:
    node = llamacffi.samplers()["grammar"].create(model.vocab, grammar=grammar, **parameters)
    assert isinstance(node, NativeNode)
    return node


def token_of(model: Model, text: str) -> int:
    (token,) = model.vocab.tokenize(text, add_special=False)
    return token


def applied(model: Model, sampler: Any, rows: NDArray[Any]) -> tuple[NDArray[Any], int | None]:
    """What a native sampler makes of candidates, and which it selects."""
    library = model.library
    data = library.ffi.from_buffer("llama_token_data[]", rows, require_writable=True)
    array = library.ffi.new("llama_token_data_array *", (data, len(rows), -1, False))
    error = library.new_error()
    assert library.lib.llamacffi_sampler_apply(sampler._handle.pointer, array, error)
    left = np.frombuffer(library.ffi.buffer(array.data, array.size * ROW.itemsize), ROW).copy()
    return left, int(left["id"][array.selected]) if array.selected >= 0 else None


def candidates(logits: NDArray[np.float32]) -> NDArray[Any]:
    rows = np.zeros(logits.size, ROW)
    rows["id"], rows["logit"] = np.arange(logits.size), logits
    return rows
