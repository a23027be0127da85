"""Loading models in tests, and telling whether two say the same."""

from __future__ import annotations

from typing import Any

from llamacffi import Model


def load(path: Any, **parameters: Any) -> Model:
    return Model(path, backend="cpu", **parameters)


def logits_of(model: Model) -> list[float]:
    """The logits after three tokens."""
    with model.context(n_ctx=32, n_threads=1) as context:
        context.decode_tokens([5, 300, 7])
        return [float(value) for value in context.logits()]
