"""A GGUF file's header, without loading the model: metadata and the list of tensors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamacffi.errors import ModelFormatError
from llamacffi.native.handle import Handle, Owner
from llamacffi.native.library import Library

__all__ = ["GGUFFile", "Tensor"]

# enum gguf_type to the getter of a single value; 8 is a string, 9 an array
_GETTERS = {
    0: "u8", 1: "i8", 2: "u16", 3: "i16", 4: "u32", 5: "i32", 6: "f32", 7: "bool", 10: "u64",
    11: "i64", 12: "f64",
}  # fmt: skip
_C_TYPES = {
    0: "uint8_t", 1: "int8_t", 2: "uint16_t", 3: "int16_t", 4: "uint32_t", 5: "int32_t",
    6: "float", 7: "bool", 10: "uint64_t", 11: "int64_t", 12: "double",
}  # fmt: skip
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class Tensor:
    """One tensor in a file.

    Attributes:
        name: E.g. "blk.0.attn_q.weight".
        type: The quantisation, e.g. "q4_1".
        n_elements: Number of weights.
        size: Bytes.
    """

    name: str
    type: str
    n_elements: int
    size: int


class GGUFFile(Owner):
    """An opened header (gguf_init_from_file).

    Args:
        library: The library to read it with.
        path: The file.

    Raises:
        ModelFormatError: Not a GGUF file, or damaged.
    """

    def __init__(self, library: Library, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._ffi, self._lib = library.ffi, library.lib
        error = library.new_error()
        pointer = library.lib.llamacffi_gguf_open(os.fsencode(self.path), error)
        library.log.drain()
        if not pointer:
            raise ModelFormatError(
                f"{self.path} cannot be read as GGUF: "
                f"{library.message(error) or 'no reason given'}. Fetch the file again."
            )
        self._handle = Handle("gguf", pointer, library.lib.gguf_free)
        self._handle.keep_alive(self)

    @property
    def version(self) -> int:
        """Version of the format (gguf_get_version)."""
        return int(self._lib.gguf_get_version(self._handle.pointer))

    def metadata(self, max_items: int = 8) -> dict[str, Any]:
        """The metadata in Python's types.

        Args:
            max_items: Longer arrays become a text such as "array of 49152 strings".
        """
        lib, pointer = self._lib, self._handle.pointer
        return {
            self._text(lib.gguf_get_key(pointer, index)): self._value(index, max_items)
            for index in range(lib.gguf_get_n_kv(pointer))
        }

    def tensors(self) -> list[Tensor]:
        """The tensors, in the file's order."""
        lib, pointer = self._lib, self._handle.pointer
        found = []
        for index in range(lib.gguf_get_n_tensors(pointer)):
            kind = lib.gguf_get_tensor_type(pointer, index)
            size = lib.gguf_get_tensor_size(pointer, index)
            found.append(
                Tensor(
                    self._text(lib.gguf_get_tensor_name(pointer, index)),
                    self._text(lib.ggml_type_name(kind)),
                    size // lib.ggml_type_size(kind) * lib.ggml_blck_size(kind),
                    size,
                )
            )
        return found

    def _text(self, chars: Any) -> str:
        return str(self._ffi.string(chars).decode("utf-8", "replace"))

    def _value(self, index: int, max_items: int) -> Any:
        lib, pointer = self._lib, self._handle.pointer
        kind = int(lib.gguf_get_kv_type(pointer, index))
        if kind == STRING:
            return self._text(lib.gguf_get_val_str(pointer, index))
        if kind != ARRAY:
            return getattr(lib, f"gguf_get_val_{_GETTERS[kind]}")(pointer, index)
        count, item = lib.gguf_get_arr_n(pointer, index), int(lib.gguf_get_arr_type(pointer, index))
        if count > max_items:
            name = "strings" if item == STRING else f"{_GETTERS.get(item, '?')} values"
            return f"array of {count} {name}"
        if item == STRING:
            return [self._text(lib.gguf_get_arr_str(pointer, index, i)) for i in range(count)]
        data = self._ffi.cast(f"{_C_TYPES[item]} *", lib.gguf_get_arr_data(pointer, index))
        return list(self._ffi.unpack(data, count)) if count else []

    def array_length(self, key: str) -> int | None:
        """How many items the array under a key has; None if there is no such array."""
        lib, pointer = self._lib, self._handle.pointer
        index = lib.gguf_find_key(pointer, key.encode())
        if index < 0 or lib.gguf_get_kv_type(pointer, index) != ARRAY:
            return None
        return int(lib.gguf_get_arr_n(pointer, index))
