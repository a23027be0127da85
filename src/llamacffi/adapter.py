"""LoRA adapters: small changes to a model's weights, switched per context."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from llamacffi.errors import AdapterError
from llamacffi.fingerprint import fingerprint
from llamacffi.native.handle import Handle, Owner

if TYPE_CHECKING:
    from llamacffi.context import Context
    from llamacffi.model import Model

__all__ = ["Adapter", "set_adapters"]


class Adapter(Owner):
    """A LoRA adapter of a model (llama_adapter_lora_init).

    Args:
        model: The model it was trained for.
        path: The adapter's GGUF file.

    Raises:
        AdapterError: No such file, or not an adapter of this model.
    """

    def __init__(self, model: Model, path: str | os.PathLike[str]) -> None:
        self.model = model
        self.path = Path(path)
        if not self.path.is_file():
            raise AdapterError(f"There is no adapter file {self.path}. Correct the path.")
        library = model.library
        error = library.new_error()
        parent = model._handle
        with parent.lock:
            pointer = library.lib.llamacffi_adapter_load(
                parent.pointer, os.fsencode(self.path), error
            )
            library.log.drain()
            library.check_servers(error, f"Loading {self.path}", parent)
            if not pointer:
                raise AdapterError(
                    f"{self.path} is no adapter of {model}: "
                    f"{library.message(error) or 'no reason given'}. Use one made for this model."
                )
            self._handle = Handle("adapter", pointer, library.lib.llama_adapter_lora_free, parent)
        self._handle.keep_alive(self)
        self._used_by: WeakSet[Context] = WeakSet()

    @cached_property
    def fingerprint(self) -> str:
        """Tells this adapter from others: 32 hexadecimal digits."""
        return fingerprint([self.path])

    def close(self) -> None:
        """Free the adapter; contexts that use it go on without. Safe to call twice."""
        for context in list(self._used_by):
            if not context.closed:
                kept = [(a, s) for a, s in context.adapters if a is not self]
                set_adapters(context, kept)
        self._handle.close()

    def __repr__(self) -> str:
        return f"Adapter({str(self.path)!r})"


def set_adapters(context: Context, adapters: Sequence[tuple[Adapter, float]]) -> None:
    """Implements Context.set_adapters (llama_set_adapters_lora)."""
    library = context.library
    for adapter, _ in adapters:
        if adapter.model is not context.model:
            raise AdapterError(
                f"{adapter} was loaded for {adapter.model}, not for {context.model}. Load it again "
                "with this context's model."
            )
    pointers = library.ffi.new(
        "struct llama_adapter_lora *[]", [adapter._handle.pointer for adapter, _ in adapters]
    )
    scales = library.ffi.new("float[]", [float(scale) for _, scale in adapters])
    error = library.new_error()
    with context._handle.lock:
        code = library.lib.llamacffi_set_adapters(
            context._handle.pointer, pointers, len(adapters), scales, error
        )
        library.check(error, "Setting adapters", context._handle)
        if code:
            raise AdapterError(f"llama.cpp refused the adapters with code {code}.")
        for adapter, _ in context.adapters:
            adapter._used_by.discard(context)
        for adapter, _ in adapters:
            adapter._used_by.add(context)
        context.adapters = tuple(adapters)  # also keeps them alive while they are in use
        context.memory.forget_tokens()  # what was computed without them is no prefix to build on
