"""A GGUF file as loose parts that can be changed one by one and packed again, however wrong.

The `gguf` package's writer refuses to write most of what hostile files contain; this one refuses
nothing. The layout is that of gguf_init_from_reader in llama.cpp's ggml/src/gguf.cpp.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["ARRAY", "STRING", "Raw", "Tensor", "array", "parse", "scalar", "string"]

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = (
    range(13)
)
FORMATS = {
    UINT8: "<B", INT8: "<b", UINT16: "<H", INT16: "<h", UINT32: "<I", INT32: "<i",
    FLOAT32: "<f", BOOL: "<?", UINT64: "<Q", INT64: "<q", FLOAT64: "<d",
}  # fmt: skip
ALIGNMENT = 32


def string(text: bytes | str) -> bytes:
    """A GGUF string: 64-bit length and bytes."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind: int, value: Any) -> tuple[int, bytes]:
    """A value's type and bytes; integers wrap around."""
    if kind == STRING:
        return kind, string(value)
    if kind in (FLOAT32, FLOAT64):
        return kind, struct.pack(FORMATS[kind], value)
    size = struct.calcsize(FORMATS[kind])
    return kind, (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def array(kind: int, values: Any, *, count: int | None = None) -> tuple[int, bytes]:
    """An array's type and bytes; `count` claims another length than there is."""
    items = b"".join(scalar(kind, value)[1] for value in values)
    return ARRAY, struct.pack("<IQ", kind, len(values) if count is None else count) + items


@dataclass
class Tensor:
    """One tensor's description."""

    name: bytes
    dims: list[int]
    kind: int
    offset: int

    def pack(self) -> bytes:
        head = string(self.name) + struct.pack("<I", len(self.dims))
        dims = b"".join(struct.pack("<Q", dim & (2**64 - 1)) for dim in self.dims)
        return head + dims + struct.pack("<IQ", self.kind & 0xFFFFFFFF, self.offset)


@dataclass
class Raw:
    """A whole file; counts are taken from the lists unless set."""

    pairs: dict[bytes, tuple[int, bytes]]
    tensors: list[Tensor]
    data: bytes
    magic: bytes = b"GGUF"
    version: int = 3
    n_tensors: int | None = None
    n_pairs: int | None = None
    extra_pairs: list[tuple[bytes, tuple[int, bytes]]] = field(default_factory=list)
    order: str = "<"

    def copy(self) -> Raw:
        return replace(
            self,
            pairs=dict(self.pairs),
            tensors=[replace(tensor, dims=list(tensor.dims)) for tensor in self.tensors],
            extra_pairs=list(self.extra_pairs),
        )

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name.encode())

    def set(self, key: str, value: tuple[int, bytes] | None) -> Raw:
        if value is None:
            self.pairs.pop(key.encode(), None)
        else:
            self.pairs[key.encode()] = value
        return self

    def head(self) -> bytes:
        pairs = [*self.pairs.items(), *self.extra_pairs]
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_pairs = len(pairs) if self.n_pairs is None else self.n_pairs
        parts = [self.magic, struct.pack(f"{self.order}IQQ", self.version, n_tensors, n_pairs)]
        parts += [string(key) + struct.pack("<I", kind) + raw for key, (kind, raw) in pairs]
        parts += [tensor.pack() for tensor in self.tensors]
        return b"".join(parts)

    def pack(self) -> bytes:
        head = self.head()
        return head + b"\0" * (-len(head) % ALIGNMENT) + self.data


def parse(blob: bytes) -> Raw:
    """Take a well-formed file apart."""
    at = 24

    def read(form: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from(form, blob, at)
        at += struct.calcsize(form)
        return value

    def read_string() -> bytes:
        nonlocal at
        length = read("<Q")
        at += length
        return blob[at - length : at]

    def skip(kind: int) -> None:
        nonlocal at
        if kind == STRING:
            read_string()
        elif kind == ARRAY:
            inner, count = read("<I"), read("<Q")
            for _ in range(count):
                skip(inner)
        else:
            at += struct.calcsize(FORMATS[kind])

    version, n_tensors, n_pairs = struct.unpack_from("<IQQ", blob, 4)
    pairs = {}
    for _ in range(n_pairs):
        key, kind = read_string(), read("<I")
        start = at
        skip(kind)
        pairs[key] = (kind, blob[start:at])
    tensors = []
    for _ in range(n_tensors):
        name = read_string()
        dims = [read("<Q") for _ in range(read("<I"))]
        tensors.append(Tensor(name, dims, read("<I"), read("<Q")))
    return Raw(pairs, tensors, blob[at + -at % ALIGNMENT :], version=version)
