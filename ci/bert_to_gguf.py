"""Write a sentence encoder of the BERT family as GGUF: see ci/minilm.

    python ci/bert_to_gguf.py FOLDER FILE

FOLDER is as sentence-transformers has it: config.json, vocab.txt, model.safetensors and
1_Pooling/config.json. Matrices are stored as f16, the rest as f32.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np

# Names in BertModel's checkpoints, and the tensors of llama.cpp's src/models/bert.cpp.
BLOCK = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")
IN_BLOCK = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
OUTSIDE = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
NOT_NEEDED = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
ADDED_AS_F32 = {"position_embd.weight", "token_types.weight"}
SPECIAL = {
    "[PAD]": "padding", "[UNK]": "unknown", "[CLS]": "cls", "[SEP]": "seperator", "[MASK]": "mask",
}  # fmt: skip
WORD_START = "▁"  # llama.cpp marks the beginning of a word, WordPiece ("##") what goes on


def read_safetensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The float32 tensors of a file: a length, a JSON header, and the numbers behind it."""
    blob = path.read_bytes()
    start = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:start])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        first, last = entry["data_offsets"]
        numbers = np.frombuffer(blob[start + first : start + last], "<f4")
        tensors[name] = numbers.reshape(entry["shape"])
    return tensors


def gguf_name(name: str) -> str:
    match = BLOCK.fullmatch(name)
    if match is None:
        return OUTSIDE[name]
    layer, part, kind = match.groups()
    return f"blk.{layer}.{IN_BLOCK[part]}.{kind}"


def as_llama_cpp_spells(token: str) -> str:
    if token in SPECIAL:
        return token
    return token[2:] if token.startswith("##") else WORD_START + token


def write(folder: Path, file: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    if len(tokens) != config["vocab_size"]:
        sys.exit(f"{len(tokens)} tokens in vocab.txt, {config['vocab_size']} in config.json")

    writer = gguf.GGUFWriter(file, "bert")
    writer.add_name(config["_name_or_path"].rpartition("/")[2])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    mean = pooling["pooling_mode_mean_tokens"]
    writer.add_pooling_type(gguf.PoolingType.MEAN if mean else gguf.PoolingType.CLS)

    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([as_llama_cpp_spells(token) for token in tokens])
    writer.add_token_types([control if token in SPECIAL else normal for token in tokens])
    writer.add_token_type_count(config["type_vocab_size"])
    for token, role in SPECIAL.items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", tokens.index(token))
    writer.add_bos_token_id(tokens.index("[CLS]"))

    for name, values in read_safetensors(folder / "model.safetensors").items():
        if name in NOT_NEEDED:
            continue
        target = gguf_name(name)
        matrix = values.ndim == 2 and target not in ADDED_AS_F32
        writer.add_tensor(target, values.astype(np.float16 if matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
