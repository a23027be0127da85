"""BERT in numpy, from the paper and the checkpoint's own names: what embeddings should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

__all__ = ["ReferenceBert"]

Floats = NDArray[np.float32]
ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)  # Abramowitz 7.1.26


def erf(x: Floats) -> Floats:
    """The error function, off by 1.5e-7 at most."""
    t = 1 / (1 + np.float32(0.3275911) * np.abs(x))
    series = sum(np.float32(factor) * t**power for power, factor in enumerate(ERF, 1))
    return np.sign(x) * (1 - series * np.exp(-(x**2)))


class ReferenceBert:
    """A sentence encoder with mean pooling, one text at a time.

    Args:
        folder: With config.json, tokenizer.json and model.safetensors.
    """

    def __init__(self, folder: Path) -> None:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._heads = int(config["num_attention_heads"])
        self._layers = int(config["num_hidden_layers"])
        self._epsilon = float(config["layer_norm_eps"])
        self._weights: dict[str, Floats] = load_file(folder / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def tokens(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def embed(self, tokens: list[int]) -> Floats:
        """The mean of the tokens' last hidden states, of length 1."""
        w = self._weights
        x = w["embeddings.word_embeddings.weight"][tokens]
        x = x + w["embeddings.position_embeddings.weight"][: len(tokens)]
        x = self._norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(self._layers):
            p = f"encoder.layer.{layer}"
            attended = self._linear(
                self._attention(x, f"{p}.attention.self"), f"{p}.attention.output.dense"
            )
            x = self._norm(x + attended, f"{p}.attention.output.LayerNorm")
            inner = self._linear(x, f"{p}.intermediate.dense")
            inner = inner * (1 + erf(inner / np.sqrt(np.float32(2)))) / 2
            x = self._norm(x + self._linear(inner, f"{p}.output.dense"), f"{p}.output.LayerNorm")
        mean: Floats = x.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _linear(self, x: Floats, name: str) -> Floats:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._epsilon)
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]

    def _attention(self, x: Floats, name: str) -> Floats:
        length, width = x.shape
        size = width // self._heads
        q, k, v = (
            self._linear(x, f"{name}.{part}").reshape(length, self._heads, size).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / np.sqrt(np.float32(size))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ v
        return mixed.swapaxes(0, 1).reshape(length, width)
