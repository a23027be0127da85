"""Tiny but valid tokenizers, one for each of llama.cpp's main kinds, as GGUF metadata.

Every kind can write any text: SPM by byte tokens, BPE by its byte alphabet, UGM and WordPiece for
lower-case ASCII (and an unknown token for the rest).
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import Any

__all__ = ["VOCABS", "Vocab"]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # enum llama_token_type

WORDS = ("th", "the", "he", "in", "an", "and", "on", "ce", "once", "up", "a", "time", "hello")
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")  # phi3 insists on the last


@dataclass(frozen=True)
class Vocab:
    """A tokenizer: its tokens, and the other keys below "tokenizer.ggml."."""

    model: str
    tokens: list[bytes]
    types: list[int]
    scores: list[float] | None = None
    other: dict[str, Any] = field(default_factory=dict)


def _spm() -> Vocab:
    """SentencePiece's byte-pair kind, as Llama 2 and Gemma have it."""
    space = "▁"
    pieces = [space, *(c for c in string.printable[:95] if c != " ")]
    pieces += [word for word in WORDS if len(word) > 1]
    pieces += [space + word for word in ("t", "th", "the", "o", "on", "once", "a", "h", "hello")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256]
    scores = [0.0] * len(tokens)
    for rank, piece in enumerate(dict.fromkeys(pieces)):
        tokens.append(piece)
        types.append(NORMAL)
        # A longer piece has the better score, so that merges are taken.
        scores.append(float(len(piece) * 10) - 1000.0 - rank / 1000)
    tokens += CHAT_TOKENS
    types += [CONTROL] * len(CHAT_TOKENS)
    scores += [0.0] * len(CHAT_TOKENS)
    other = {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "add_bos_token": True,
        "add_eos_token": False,
        "add_space_prefix": True,
    }
    return Vocab("llama", [token.encode() for token in tokens], types, scores, other)


def byte_alphabet() -> list[str]:
    """GPT-2's 256 printable stand-ins for the bytes, in the bytes' order."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in plain else next(spare)) for byte in range(256)]


def _bpe() -> Vocab:
    """GPT-2's byte-level BPE."""
    merges = [
        "t h",
        "th e",
        "Ġ t",
        "Ġt h",
        "Ġth e",
        "h e",
        "i n",
        "a n",
        "an d",
        "Ġ a",
        "l l",
        "o n",
    ]
    tokens = byte_alphabet() + [merge.replace(" ", "") for merge in merges]
    types = [NORMAL] * len(tokens)
    tokens += CHAT_TOKENS
    types += [CONTROL] * len(CHAT_TOKENS)
    end = tokens.index("<|endoftext|>")
    other = {
        "pre": "gpt-2",
        "merges": merges,
        "bos_token_id": end,
        "eos_token_id": end,
        "add_bos_token": False,
    }
    return Vocab("gpt2", [token.encode() for token in tokens], types, None, other)


def _ugm() -> Vocab:
    """SentencePiece's unigram kind, as T5 has it."""
    letters = string.ascii_lowercase + string.digits + ".,!?'-"
    pieces = ["▁", *letters, *(word for word in WORDS if len(word) > 1), "▁the", "▁a", "▁hello"]
    tokens = ["<pad>", "</s>", "<unk>", *pieces]
    types = [CONTROL, CONTROL, UNKNOWN, *[NORMAL] * len(pieces)]
    scores = [0.0, 0.0, 0.0, *(-10.0 / len(piece) - 1.0 for piece in pieces)]
    other = {
        "eos_token_id": 1,
        "unknown_token_id": 2,
        "padding_token_id": 0,
        "add_bos_token": False,
        "add_eos_token": True,
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
    }
    return Vocab("t5", [token.encode() for token in tokens], types, scores, other)


def _wpm() -> Vocab:
    """WordPiece, as BERT has it; llama.cpp marks a word's beginning with a phantom space."""
    letters = string.ascii_lowercase + string.digits
    begin = ["▁" + piece for piece in (*letters, *".,!?'-", *WORDS)]
    pieces = list(dict.fromkeys([*begin, *letters, "ing", "ed", "er", "ly"]))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = special + pieces
    types = [CONTROL] * len(special) + [NORMAL] * len(pieces)
    other = {
        "token_type_count": 2,
        "bos_token_id": 2,
        "cls_token_id": 2,
        "eos_token_id": 3,
        "seperator_token_id": 3,  # upstream's spelling
        "unknown_token_id": 1,
        "padding_token_id": 0,
        "mask_token_id": 4,
        "add_bos_token": True,
        "add_eos_token": True,
    }
    return Vocab("bert", [token.encode() for token in tokens], types, None, other)


VOCABS = {"llama": _spm(), "gpt2": _bpe(), "t5": _ugm(), "bert": _wpm()}
