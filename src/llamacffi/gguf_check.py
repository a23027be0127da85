"""What llama.cpp does not check in a model file and then dies of: refused here, before the load.

llama.cpp checks most of a file while loading and answers with an error. What is left are
properties that only show while computing, where it reads through a null pointer, never returns, or
fails an assertion in a worker thread, which nobody can catch. Each check below was found by
fuzzing tiny models (tests/test_hostile_files.py) and names the place upstream that it protects.

The header is walked in Python: for the 97,000 strings of SmolLM2's vocabulary that takes less time
than llama.cpp's own parser would for a second reading. Whatever cannot be parsed is left to
llama.cpp, which refuses it in its own words; the walk accepts at least what upstream accepts.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llamacffi.errors import ModelFormatError, ParameterError

__all__ = ["check_model_file", "file_parts"]

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)  # enum gguf_type
_SIZES = {U8: 1, I8: 1, U16: 2, I16: 2, U32: 4, I32: 4, F32: 4, BOOL: 1, U64: 8, I64: 8, F64: 8}

_GGML_F32 = 0
# enum ggml_type: those that matrix products have no function for
_NOT_FOR_PRODUCTS = {9: "q8_1", 15: "q8_K", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64"}
_INTEGER_TABLES = re.compile(r"(^|\.)(d2t|t2d|ffn_gate_tid2eid)(\.weight)?$")
_ADDED_OR_SCALED = re.compile(r"(norm(_\w+)?\.weight|\.bias)$")
_ADDED_ROWS = re.compile(r"^token_types\.weight$")
_CONVOLUTIONS = re.compile(r"(ssm_conv1d\.weight|shortconv\.conv\.weight|\.ssm_a|\.ssm_d)$")

# LLAMA_ROPE_TYPE_NONE in llama_model_rope_type (llama-model.cpp): rope dimensions are not used
_WITHOUT_ROPE = frozenset({
    "clip", "gpt2", "gptj", "mpt", "refact", "bloom", "mamba", "mamba2", "jamba", "jina-bert-v2",
    "t5", "t5encoder", "jais", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7", "wavtokenizer-dec",
    "nemotron_h", "nemotron_h_moe", "kimi-linear", "kimi-k3", "glm5-next",
})  # fmt: skip

_u32 = struct.Struct("<I").unpack_from
_u64 = struct.Struct("<Q").unpack_from
_f32 = struct.Struct("<f").unpack_from


@dataclass
class _Header:
    """The parts of a file's header that the checks read."""

    integers: dict[str, int] = field(default_factory=dict)  # U32 and U16 only
    floats: dict[str, float] = field(default_factory=dict)
    strings: dict[str, str] = field(default_factory=dict)
    bools: dict[str, bool] = field(default_factory=dict)
    tokens_at: tuple[int, int] | None = None  # offset and count of tokenizer.ggml.tokens
    tensors: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    size: int = 0  # bytes up to the end of the list of tensors

    @property
    def architecture(self) -> str:
        return self.strings.get("general.architecture", "")

    def override(self, key: str, value: bool | float | str) -> None:
        kinds = (
            (self.strings, str),
            (self.floats, float),
            (self.integers, int),
            (self.bools, bool),
        )
        for known, kind in kinds:
            if key in known and type(value) is not kind:  # llama.cpp would ignore it
                raise ParameterError(
                    f"metadata_overrides[{key!r}] is {value!r}; the file has a {kind.__name__}."
                )
        if isinstance(value, str):
            self.strings[key] = value
        elif isinstance(value, float):
            self.floats[key] = value
        elif not isinstance(value, bool):
            self.integers[key] = value & 0xFFFFFFFF  # llama.cpp stores it in a uint32_t


def check_model_file(
    path: str | os.PathLike[str], overrides: Mapping[str, bool | int | float | str] | None = None
) -> int | None:
    """Refuse a model file that would end or hang the process when it is used.

    Args:
        path: The file; of a split model the first part, whose siblings are read too.
        overrides: Metadata that replaces the file's, as `Model(metadata_overrides=...)`.

    Returns:
        How many positions the model has learned, where it has a table of them; llama.cpp looks
        up later ones behind the table's end, in a worker thread. None where any can be computed.

    Raises:
        ModelFormatError: Naming the key or the tensor, and what is wrong with it.
    """
    file = Path(path)
    header = _read(file)
    if header is None:
        return None
    for key, value in (overrides or {}).items():
        header.override(key, value)
    complete = True
    for part in _other_parts(file, header.integers.get("split.count", 1)):
        other = _read(part)
        if other is None:
            complete = False  # llama.cpp will say that it is missing
        else:
            header.tensors |= other.tensors
    wrong = _wrong_numbers(header) or _wrong_tensor(header)
    if wrong is None and header.tensors and complete:
        wrong = _missing_tensor(header)
    wrong = wrong or _wrong_vocabulary(file, header)
    if wrong is not None:
        raise ModelFormatError(
            f"{file} describes a model that cannot be run: {wrong}. llama.cpp would crash or hang "
            "on it. Fetch the file again, or convert the model with a current llama.cpp."
        )
    _, shape = header.tensors.get("position_embd.weight", (0, ()))
    return shape[1] if len(shape) > 1 else None


def file_parts(path: str | os.PathLike[str]) -> list[tuple[Path, int | None]]:
    """A model's files: of one that is split, given its first, all that are there.

    Returns:
        Each with the bytes of its metadata and list of tensors; None if they cannot be read.
    """
    file = Path(path)
    header = _read(file)
    found: list[tuple[Path, int | None]] = [(file, header.size if header else None)]
    for part in _other_parts(file, header.integers.get("split.count", 1) if header else 1):
        if part.is_file():
            other = _read(part)
            found.append((part, other.size if other else None))
    return found


# -- the checks ---------------------------------------------------------------------------------


def _wrong_numbers(header: _Header) -> str | None:
    for key, value in header.floats.items():
        # ggml_compute_forward_norm_f32, _rms_norm_f32 (ggml-cpu/ops.cpp): GGML_ASSERT(eps >= 0)
        if key.endswith("_epsilon") and not value >= 0:
            return f"{key} is {value} and must be 0 or more"
    if header.architecture in _WITHOUT_ROPE:
        return None
    for suffix in ("", "_swa"):
        key = f"{header.architecture}.rope.dimension_count{suffix}"
        dims = header.integers.get(key)
        head = _head_size(header, suffix)
        # ggml_compute_forward_rope_flt (ggml-cpu/ops.cpp) steps by n_dims, a signed int, to skip
        # the rotated channels: zero or less and the loop never ends. Odd, or more than the head
        # has: GGML_ASSERT, in a worker thread.
        if dims is not None and not (0 < dims < 1 << 31 and dims % 2 == 0 and dims <= head):
            return f"{key} is {dims} and must be an even number from 2 to the head size, {head}"
    return None


def _head_size(header: _Header, suffix: str) -> int:
    """n_embd_head_k as llama_model_base::load_hparams has it; no limit where it is unknown."""
    prefix = f"{header.architecture}."
    for key in (f"attention.key_length{suffix}", "attention.key_length"):
        if prefix + key in header.integers:
            return header.integers[prefix + key]
    width = header.integers.get(prefix + "embedding_length", 0)
    n_head = header.integers.get(prefix + "attention.head_count", 0)
    return width // n_head if width and n_head else (1 << 31) - 1


def _wrong_tensor(header: _Header) -> str | None:
    for name, (kind, shape) in header.tensors.items():
        if kind == _GGML_F32:
            continue
        one_row = len(shape) < 2 or all(n == 1 for n in shape[1:])
        # binary_op (ggml-cpu/binary-ops.cpp): added to or multiplied with activations, which are
        # f32 (of token_types one row, in models/bert.cpp); otherwise GGML_ABORT("unsupported
        # types"), in a worker thread
        if (one_row and _ADDED_OR_SCALED.search(name)) or _ADDED_ROWS.search(name):
            return f"tensor {name} is added or multiplied, must be f32 (0), and has type {kind}"
        # ggml_compute_forward_ssm_conv_f32, _ssm_scan_f32 (ggml-cpu/ops.cpp): read as floats
        if _CONVOLUTIONS.search(name):
            return f"tensor {name} has type {kind} and must be f32 (0)"
        # ggml_compute_forward_mul_mat, _mul_mat_id (ggml-cpu.c): type_traits_cpu has no vec_dot
        # for these types, and calls the null pointer
        if (
            kind in _NOT_FOR_PRODUCTS
            and name.endswith(".weight")
            and not _INTEGER_TABLES.search(name)
        ):
            return f"tensor {name} has type {_NOT_FOR_PRODUCTS[kind]}, which weights cannot have"
    return None


def _missing_tensor(header: _Header) -> str | None:
    names, architecture = header.tensors, header.architecture
    if architecture == "phi3":
        # llama_model_phi3::load_arch_tensors (models/phi3.cpp) lets create_tensor_qkv find
        # neither form, and build_qkv reads through the null pointer
        for i in range(min(header.integers.get("phi3.block_count", 0), 1024)):
            split = [f"blk.{i}.attn_{part}.weight" for part in "qkv"]
            if f"blk.{i}.attn_qkv.weight" not in names and not all(n in names for n in split):
                return f"tensor blk.{i}.attn_qkv.weight is missing"
    if architecture in ("t5", "t5encoder"):
        # build_pos_bias (llama-graph.cpp): layer 0's table stands in for the other layers', and
        # is itself declared optional (models/t5.cpp)
        for side in ("enc", "dec") if architecture == "t5" else ("enc",):
            if f"{side}.blk.0.attn_rel_b.weight" not in names:
                return f"tensor {side}.blk.0.attn_rel_b.weight is missing"
    return None


def _wrong_vocabulary(file: Path, header: _Header) -> str | None:
    kind = header.strings.get("tokenizer.ggml.model")
    if header.tokens_at is None or kind in ("none", "no_vocab"):
        return None
    # llama_vocab::impl::tokenize (llama-vocab.cpp): kind "test" divides by the number of tokens,
    # while loading
    if header.tokens_at[1] == 0:
        return "its vocabulary has no tokens"
    return _wrong_rwkv_tokens(file, *header.tokens_at) if kind == "rwkv" else None


def _wrong_rwkv_tokens(file: Path, at: int, count: int) -> str | None:
    # llm_tokenizer_rwkv_session::tokenize (llama-vocab.cpp): a text that begins like a token but
    # matches none sets the position back to 0 and the output grows until memory is gone.
    first: set[int] = set()
    single: set[int] = set()
    with _mapped(file) as blob:
        for _ in range(count):
            length = _u64(blob, at)[0]
            token = _unescape(blob[at + 8 : at + 8 + length])
            at += 8 + length
            first.update(token[:1])
            if len(token) == 1:
                single.update(token)
    missing = sorted(first - single)
    if missing:
        return f"its rwkv vocabulary has no token for the single byte 0x{missing[0]:02x}"
    return None


def _unescape(token: bytes) -> bytes:
    """What llama_unescape_rwkv_token (llama-vocab.cpp) makes of the start of a token."""
    short = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}

    def plain(match: re.Match[bytes]) -> bytes:
        text = match[0][1:]
        if text[:1] == b"x":
            digits = [(c - 87 if c >= 97 else c - 48) & 255 for c in text[1:]]
            return bytes([(digits[0] * 16 + digits[1]) & 255]) if len(digits) == 2 else b""
        return short.get(text, text)

    return re.sub(rb"\\(x.{0,2}|.)", plain, token, flags=re.DOTALL)


# -- the walk -----------------------------------------------------------------------------------


def _other_parts(file: Path, count: int) -> list[Path]:
    """The siblings of a split model's first part, by llama_split_path's scheme (llama.cpp)."""
    ending = f"-00001-of-{count:05d}.gguf"
    if not 1 < count < 1 << 16 or not file.name.endswith(ending):
        return []
    stem = file.name[: -len(ending)]
    return [file.with_name(f"{stem}-{i:05d}-of-{count:05d}.gguf") for i in range(2, count + 1)]


def _mapped(file: Path) -> mmap.mmap:
    with file.open("rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


def _read(file: Path) -> _Header | None:
    """A file's header; None if it cannot be read as one."""
    try:
        with _mapped(file) as blob:
            return _walk(blob)
    except (OSError, ValueError, struct.error, LookupError, OverflowError):
        return None


def _skip_strings(blob: mmap.mmap, at: int, count: int) -> int:
    """The offset behind `count` strings: nearly all of the walk's time, for a big vocabulary."""
    u64 = _u64
    for _ in range(count):
        at += 8 + u64(blob, at)[0]
    return at


def _walk(blob: mmap.mmap) -> _Header | None:
    """Follows gguf_init_from_reader (ggml/src/gguf.cpp)."""
    header = _Header()
    if blob[:4] != b"GGUF" or _u32(blob, 4)[0] not in (2, 3):
        return None
    n_tensors, n_pairs = struct.unpack_from("<QQ", blob, 8)
    at = 24
    for _ in range(n_pairs):
        length = _u64(blob, at)[0]
        key = blob[at + 8 : at + 8 + length].decode("utf-8", "replace")
        kind = _u32(blob, at + 8 + length)[0]
        at += 12 + length
        if kind == ARRAY:
            inner, count = _u32(blob, at)[0], _u64(blob, at + 4)[0]
            at += 12
            if inner != STRING:
                at += count * _SIZES[inner]
                continue
            if key == "tokenizer.ggml.tokens":
                header.tokens_at = (at, count)
            at = _skip_strings(blob, at, count)
        elif kind == STRING:
            length = _u64(blob, at)[0]
            if length < 256:  # a chat template is of no interest here
                header.strings[key] = blob[at + 8 : at + 8 + length].decode("utf-8", "replace")
            at += 8 + length
        else:
            if kind == U32:
                header.integers[key] = _u32(blob, at)[0]
            elif kind == U16:  # split.count
                header.integers[key] = int.from_bytes(blob[at : at + 2], "little")
            elif kind == BOOL:
                header.bools[key] = bool(blob[at])
            elif kind == F32:
                header.floats[key] = _f32(blob, at)[0]
            at += _SIZES[kind]
    for _ in range(n_tensors):
        length = _u64(blob, at)[0]
        name = blob[at + 8 : at + 8 + length].split(b"\0")[0].decode("utf-8", "replace")
        at += 8 + length
        n_dims = _u32(blob, at)[0]
        if n_dims > 4:
            return None
        shape = struct.unpack_from(f"<{n_dims}Q", blob, at + 4)
        at += 4 + 8 * n_dims
        header.tensors[name] = (_u32(blob, at)[0], shape)
        at += 12
    header.size = at
    return header
