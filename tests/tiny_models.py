"""Tiny GGUF models with random weights, one per kind of architecture.

They say nothing sensible, but every one loads, decodes and has a real tokenizer, so that the tests
reach the code paths the default test model does not: mixtures of experts, recurrent and
sliding-window memory, encoder-decoders, encoders with pooling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.tiny_architectures import ARCHITECTURES, RERANKER, Architecture, Sizes
from tests.tiny_vocabs import VOCABS, Vocab

__all__ = [
    "ARCHITECTURES",
    "CHATML",
    "Sizes",
    "model_contents",
    "write_lora",
    "write_model",
    "write_reranker",
    "write_split",
    "write_vocab_only",
]

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def model_contents(
    architecture: str,
    *,
    sizes: Sizes | None = None,
    chat_template: str | None = CHATML,
    seed: int = 0,
    kind: Architecture | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """The metadata and the weights of a tiny model, for a test to change before it writes them.

    Args:
        architecture: Its name in the file.
        sizes: Its dimensions.
        chat_template: Put into the metadata.
        seed: Of the weights.
        kind: How it is put together; None for ARCHITECTURES'.

    Returns:
        The key-value pairs with full key names, and the tensors in numpy's order (slowest first).
    """
    s = sizes or Sizes()
    kind = kind or ARCHITECTURES[architecture]
    vocab = VOCABS[kind.vocab]
    metadata: dict[str, Any] = {
        "general.architecture": architecture,
        "general.name": f"tiny {architecture}",
    }
    common = {"context_length": s.n_ctx, "embedding_length": s.n_embd, "block_count": s.n_layer}
    for key, value in (common | kind.metadata(s)).items():
        metadata[f"{architecture}.{key}"] = value
    metadata |= _vocab_metadata(vocab)
    if chat_template is not None:
        metadata["tokenizer.chat_template"] = chat_template
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in kind.shapes(s, len(vocab.tokens)).items():
        values = random.standard_normal(shape[::-1], dtype=np.float32) * np.float32(0.2)
        if name.endswith("norm.weight"):
            values += 1
        elif name.endswith("ssm_a"):
            values = -np.abs(values) - np.float32(0.1)  # a state that decays
        tensors[name] = values
    return metadata, tensors


def _vocab_metadata(vocab: Vocab) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": vocab.model,
        "tokenizer.ggml.tokens": vocab.tokens,
        "tokenizer.ggml.token_type": vocab.types,
    }
    if vocab.scores is not None:
        metadata["tokenizer.ggml.scores"] = vocab.scores
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in vocab.other.items()}


def _add(writer: Any, metadata: dict[str, Any]) -> None:
    for key, value in metadata.items():
        if key == "general.architecture":
            continue  # the writer's constructor has added it
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)


def _write(
    path: Path, metadata: dict[str, Any], tensors: dict[str, Any], split_max_tensors: int = 0
) -> None:
    writer = gguf.GGUFWriter(
        path, str(metadata["general.architecture"]), split_max_tensors=split_max_tensors
    )
    _add(writer, metadata)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_model(
    path: Path,
    architecture: str = "llama",
    *,
    sizes: Sizes | None = None,
    chat_template: str | None = CHATML,
    seed: int = 0,
) -> Path:
    """Write a tiny model of one of ARCHITECTURES; returns the path."""
    _write(path, *model_contents(architecture, sizes=sizes, chat_template=chat_template, seed=seed))
    return path


def write_reranker(path: Path, template: str | None = None) -> Path:
    """Write a tiny encoder with a classifier of two outputs; returns the path."""
    metadata, tensors = model_contents("bert", kind=RERANKER, chat_template=None)
    if template is not None:
        metadata["tokenizer.chat_template.rerank"] = template
    _write(path, metadata, tensors)
    return path


def write_split(path: Path, architecture: str = "llama", *, seed: int = 0) -> list[Path]:
    """Write a tiny model in two files, named after `path` as upstream's gguf-split names them."""
    metadata, tensors = model_contents(architecture, seed=seed)
    _write(path, metadata, tensors, split_max_tensors=(len(tensors) + 1) // 2)
    return [path.with_name(f"{path.stem}-0000{part}-of-00002.gguf") for part in (1, 2)]


def write_vocab_only(path: Path, architecture: str = "llama") -> Path:
    """Write a model file that has a tokenizer and hyperparameters, and no weights."""
    metadata, _ = model_contents(architecture)
    _write(path, metadata, {})
    return path


def write_lora(
    path: Path,
    architecture: str = "llama",
    *,
    n_embd: int = 32,
    rank: int = 4,
    seed: int = 1,
) -> Path:
    """Write a LoRA adapter on the query projections of a tiny model with that n_embd."""
    random = np.random.default_rng(seed)
    tensors = {}
    for i in range(Sizes.n_layer):
        for part, shape in (("a", (rank, n_embd)), ("b", (n_embd, rank))):
            name = f"blk.{i}.attn_q.weight.lora_{part}"
            tensors[name] = random.standard_normal(shape, dtype=np.float32)
    metadata = {
        "general.architecture": architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(2 * rank),
    }
    _write(path, metadata, tensors)
    return path
