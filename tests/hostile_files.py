"""Model files that are wrong, one property each, and a fuzzer that makes more of them.

Every case starts from a tiny model that works (tests/tiny_models.py), so that llama.cpp gets as
far as the wrong spot. `hostile_files` names what is wrong; `fuzzed` flips bytes.
"""

from __future__ import annotations

import random
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO

from tests.raw_gguf import (
    ARRAY,
    BOOL,
    FLOAT32,
    INT32,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    Raw,
    Tensor,
    array,
    parse,
    scalar,
)

__all__ = ["fuzzed", "hostile_files"]

TOKENIZER = "tokenizer.ggml."
HUGE = 2**63 - 1


def hostile_files(model: bytes) -> Iterator[tuple[str, bytes]]:
    """All cases made from a tiny llama: a name that says what is wrong, and the file."""
    yield from _not_gguf(model)
    yield from _cut_short(model)
    good = parse(model)
    assert good.pack() == model
    for group in (_headers, _pairs, _tensor_lists, _hyperparameters, _vocabularies, _weights):
        for name, change in group():
            raw = good.copy()
            change(raw)
            yield name, raw.pack()


Change = Callable[[Raw], object]
Case = tuple[str, Change]


def _not_gguf(model: bytes) -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "one byte", b"G"
    yield "text", b"This is not a model.\n" * 100
    yield "elf", b"\x7fELF\x02\x01\x01" + bytes(1000)
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("model.gguf", model[:1000])
    yield "zip", packed.getvalue()
    yield "ggml magic", b"lmgg" + model[4:]
    yield "magic only", b"GGUF"


def _cut_short(model: bytes) -> Iterator[tuple[str, bytes]]:
    raw = parse(model)
    head = len(raw.head())
    infos = sum(len(tensor.pack()) for tensor in raw.tensors)
    cuts = {"header": (8, 16, 23, 24), "pairs": (60, (head - infos) // 2, head - infos - 1)}
    cuts["tensor infos"] = (head - infos, head - infos // 2, head - 1)
    cuts["data"] = (head, head + 64, (head + len(model)) // 2, len(model) - 64)
    for where, places in cuts.items():
        for place in places:
            yield f"cut in {where} at {place}", model[:place]


def _headers() -> Iterator[Case]:
    for version in (0, 1, 4, 99, 0x03000000, 2**32 - 1):
        yield f"version {version}", _attribute("version", version)
    yield "big endian", _attribute("order", ">")
    for count in (HUGE, 2**64 - 1, 2**40, 10**6):
        yield f"{count} tensors", _attribute("n_tensors", count)
        yield f"{count} pairs", _attribute("n_pairs", count)
    yield "fewer tensors than there are", _attribute("n_tensors", 3)
    yield "no tensors", lambda raw: raw.tensors.clear()
    yield "no pairs", lambda raw: raw.pairs.clear()


def _pairs() -> Iterator[Case]:
    def adds(key: bytes, kind: int, value: bytes) -> Change:
        return lambda raw: raw.extra_pairs.append((key, (kind, value)))

    for length in (2**30 + 1, HUGE, 2**64 - 1):
        yield f"string of {length} bytes", adds(b"x", STRING, struct.pack("<Q", length))
        yield (
            f"array of {length} numbers",
            adds(b"x", ARRAY, struct.pack("<IQ", UINT32, length)),
        )
        yield (
            f"array of {length} strings",
            adds(b"x", ARRAY, struct.pack("<IQ", STRING, length)),
        )
    inner = struct.pack("<IQ", UINT8, 1) + b"\1"
    yield "array of arrays", adds(b"x", ARRAY, struct.pack("<IQ", ARRAY, 1) + inner)
    for kind in (13, 99, 2**32 - 1):
        yield f"value of type {kind}", adds(b"x", kind, bytes(8))
        yield f"array of type {kind}", adds(b"x", ARRAY, struct.pack("<IQ", kind, 1) + bytes(8))
    yield "empty key", adds(b"", *scalar(UINT8, 1))
    yield "key of 100,000 bytes", adds(b"k" * 100_000, *scalar(UINT8, 1))
    yield "key of invalid UTF-8", adds(b"\xff\xfe", *scalar(UINT8, 1))
    yield "the same key twice", adds(b"general.name", *scalar(STRING, "again"))
    yield "boolean of 7", adds(b"tokenizer.ggml.add_sep_token", BOOL, b"\x07")
    for value in (0, 1, 3, 2**31, 2**32 - 1):
        yield f"alignment {value}", _set("general.alignment", UINT32, value)
    yield "alignment as text", _set("general.alignment", STRING, "32")


def _set(key: str, kind: int, value: object) -> Change:
    return lambda raw: raw.set(key, scalar(kind, value))


def _set_array(key: str, kind: int, values: Sequence[object]) -> Change:
    return lambda raw: raw.set(key, array(kind, values))


def _remove(key: str) -> Change:
    return lambda raw: raw.set(key, None)


def _attribute(name: str, value: object) -> Change:
    return lambda raw: setattr(raw, name, value)


def _tensor_lists() -> Iterator[Case]:
    name = "blk.0.attn_q.weight"

    def edit(**fields: object) -> Change:
        def change(raw: Raw) -> None:
            for field, value in fields.items():
                setattr(raw.tensor(name), field, value)

        return change

    for dims in ([-1, 32], [0, 32], [0], [], [2**62, 4], [2**32, 2**32], [2**63 - 1], [1] * 5):
        yield f"shape {dims}", edit(dims=dims)
    yield "200 dimensions", edit(dims=[1] * 200)
    for shape in ([32, 31], [31, 32], [32, 32, 2], [64, 32], [1024]):
        yield f"wrong shape {shape}", edit(dims=shape)
    for offset in (1, 7, 32, 2**40, HUGE, 2**64 - 1):
        yield f"offset {offset}", edit(offset=offset)
    for kind in (4, 31, 42, 99, 2**31, 2**32 - 1):
        yield f"tensor type {kind}", edit(kind=kind)
    for label in (b"", b"blk.0.attn_q\0.weight", b"n" * 63, b"n" * 64, b"n" * 100_000, b"\xff\xfe"):
        yield f"tensor name of {len(label)} bytes", edit(name=label)
    yield "two tensors of one name", edit(name=b"blk.0.attn_k.weight")
    yield (
        "a tensor nobody asked for",
        lambda raw: raw.tensors.append(Tensor(b"extra", [0], 0, len(raw.data))),
    )


def _hyperparameters() -> Iterator[Case]:
    keys = (
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "rope.dimension_count",
    )
    for key in (f"llama.{key}" for key in keys):
        yield f"{key} missing", _remove(key)
        for value in (0, 1, 3, 5, 7, 31, 33, 2**20, 2**31 - 1, 2**31, 2**32 - 1):
            yield f"{key} = {value}", _set(key, UINT32, value)
        yield f"{key} as text", _set(key, STRING, "32")
        yield f"{key} negative", _set(key, INT32, -1)
        yield f"{key} as a 64-bit number", _set(key, UINT64, 2**40)
        for values in ([], [0, 0], [2**32 - 1] * 2, [1] * 513):
            yield (
                f"{key} as {len(values)} values from {values[:1]}",
                _set_array(key, UINT32, values),
            )
    for other in ("", "no-such-architecture", "l" * 10_000, "mamba", "bert", "t5", "clip", "\xff"):
        yield f"architecture {other[:12]!r}", _set("general.architecture", STRING, other)
    yield "architecture missing", _remove("general.architecture")
    yield "architecture as a number", _set("general.architecture", UINT32, 1)
    epsilon = "llama.attention.layer_norm_rms_epsilon"
    for number in (0.0, -1.0, float("nan"), float("inf")):
        yield f"epsilon {number}", _set(epsilon, FLOAT32, number)
        yield f"rope base {number}", _set("llama.rope.freq_base", FLOAT32, number)
        yield f"rope scaling {number}", _set("llama.rope.scaling.factor", FLOAT32, number)
    yield "unknown rope scaling", _set("llama.rope.scaling.type", STRING, "sideways")
    for experts, used in ((4, 0), (4, 9), (0, 2), (2**31, 2), (8, 2)):

        def mix(raw: Raw, experts: int = experts, used: int = used) -> None:
            raw.set("llama.expert_count", scalar(UINT32, experts))
            raw.set("llama.expert_used_count", scalar(UINT32, used))

        yield f"{experts} experts, {used} used", mix
    for count, number in ((2, 0), (0, 0), (65535, 0), (2, 1)):

        def split(raw: Raw, count: int = count, number: int = number) -> None:
            raw.set("split.count", scalar(2, count)).set("split.no", scalar(2, number))

        yield f"part {number} of {count}", split


def _vocabularies() -> Iterator[Case]:
    tokens = f"{TOKENIZER}tokens"
    yield (
        "no tokenizer",
        lambda raw: [
            raw.pairs.pop(key) for key in list(raw.pairs) if key.startswith(b"tokenizer.")
        ],
    )
    for key in ("model", "tokens", "scores", "token_type"):
        yield f"{key} missing", _remove(TOKENIZER + key)
        yield f"{key} of wrong type", _set(TOKENIZER + key, UINT32, 5)
    for model in ("", "gpt2", "bert", "t5", "rwkv", "plamo2", "test", "no_vocab", "none", "gemma4"):
        yield f"tokenizer {model!r}", _set(f"{TOKENIZER}model", STRING, model)
    yield "tokens as numbers", _set_array(tokens, UINT32, range(378))
    for count in (0, 1, 377, 379, 1000):
        yield f"{count} tokens", _set_array(tokens, STRING, [f"t{i}" for i in range(count)])
        yield f"{count} scores", _set_array(f"{TOKENIZER}scores", FLOAT32, [0.0] * count)
        yield f"{count} token types", _set_array(f"{TOKENIZER}token_type", INT32, [1] * count)
    for text in (b"", b"\xff\xfe", b"\0", b"<0xZZ>", b"<0x", b"\xe2\x96", b" ", b"x" * 5000):
        yield f"all tokens {text[:8]!r}", _set_array(tokens, STRING, [text] * 378)
    for value in (0, -1, 7, 64, 10**9):
        yield (
            f"all token types {value}",
            _set_array(f"{TOKENIZER}token_type", INT32, [value] * 378),
        )
    for number in (float("nan"), float("inf"), -1e38):
        yield f"all scores {number}", _set_array(f"{TOKENIZER}scores", FLOAT32, [number] * 378)
    for name in ("bos", "eos", "unknown", "padding", "eot", "seperator", "mask", "fim_pre"):
        for value in (378, 10**9, 2**31 - 1, 2**31, 2**32 - 1):
            yield f"{name} = {value}", _set(f"{TOKENIZER}{name}_token_id", UINT32, value)
        yield f"{name} negative", _set(f"{TOKENIZER}{name}_token_id", INT32, -1)
    yield "chat template of 10 MB", _set("tokenizer.chat_template", STRING, "{{x}}" * 2_000_000)
    yield "chat template of rubbish", _set("tokenizer.chat_template", STRING, b"{% \xff\0 {{")
    yield "chat template as a number", _set("tokenizer.chat_template", UINT32, 1)
    for merges in ([], [b""], [b" "], [b"\xff \xfe"], [b"ab"], [b"a b"] * 3, [b"  "]):

        def bpe(raw: Raw, merges: list[bytes] = merges) -> None:
            raw.set(f"{TOKENIZER}model", scalar(STRING, "gpt2"))
            raw.set(f"{TOKENIZER}merges", array(STRING, merges))

        yield f"merges {merges}", bpe


def _weights() -> Iterator[Case]:
    def without(name: bytes) -> Change:
        def change(raw: Raw) -> None:
            raw.tensors = [tensor for tensor in raw.tensors if tensor.name != name]
            _lay_out(raw)

        return change

    def filled(word: bytes) -> Change:
        def change(raw: Raw) -> None:
            raw.data = word * (len(raw.data) // len(word))

        return change

    def retyped(name: bytes, kind: int) -> Change:
        def change(raw: Raw) -> None:
            raw.tensor(name.decode()).kind = kind
            _lay_out(raw)

        return change

    for name in (
        b"token_embd.weight",
        b"output_norm.weight",
        b"output.weight",
        b"blk.1.ffn_up.weight",
    ):
        yield f"{name.decode()} missing", without(name)
    for name in (b"token_embd.weight", b"blk.0.attn_norm.weight", b"blk.0.ffn_up.weight"):
        for kind in SIZES:
            yield f"{name.decode()} of type {kind}", retyped(name, kind)
    for pattern in (0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF):
        yield f"all weights 0x{pattern:08x}", filled(struct.pack("<I", pattern))


# ggml_type to bytes and elements per block, for those whose blocks divide the tiny rows
SIZES = {0: (4, 1), 1: (2, 1), 2: (18, 32), 3: (20, 32), 6: (22, 32), 8: (34, 32), 9: (36, 32),
         20: (18, 32), 24: (1, 1), 25: (2, 1), 26: (4, 1), 27: (8, 1), 28: (8, 1), 30: (2, 1),
         39: (17, 32)}  # fmt: skip


def _lay_out(raw: Raw) -> None:
    """Give the tensors the offsets that follow from their types, and enough data."""
    offset = 0
    for tensor in raw.tensors:
        size, block = SIZES[tensor.kind]
        elements = 1
        for dim in tensor.dims:
            elements *= dim
        tensor.offset = offset
        offset += -(-(elements // block * size) // 32) * 32
    raw.data += bytes(max(0, offset - len(raw.data)))


def fuzzed(model: bytes, seed: int) -> bytes:
    """A copy with 1 to 20 bytes changed: in the header for even seeds, anywhere for odd ones."""
    chance = random.Random(seed)
    changed = bytearray(model)
    end = len(model) if seed % 2 else len(parse(model).head())
    for _ in range(chance.choice((1, 2, 3, chance.randint(1, 20)))):
        place = chance.randrange(end)
        flipped = changed[place] ^ (1 << chance.randrange(8))
        changed[place] = chance.choice((chance.randrange(256), flipped, 0, 255))
    return bytes(changed)
