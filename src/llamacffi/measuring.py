"""What a model and a context take of the memory: measured by llama.cpp, which takes none of it.

It loads the model's header and vocabulary, and makes a context, both without buffers (`no_alloc`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamacffi.backends import AUTO, Device
from llamacffi.backends.devices import devices
from llamacffi.context_params import ContextParams
from llamacffi.errors import DeviceMemoryError, NativeError
from llamacffi.host_memory import host_memory
from llamacffi.memory_plan import DeviceMemory, MemoryPlan, in_units
from llamacffi.model_params import ModelParams
from llamacffi.native.interruptible import run_interruptible
from llamacffi.native.library import Library
from llamacffi.rpc import RemoteServers

__all__ = ["SMALLEST", "ModelSource", "is_about_memory", "measure", "out_of_memory", "run_fit"]

SMALLEST = ContextParams(n_ctx=256, n_batch=32)


@dataclass(frozen=True)
class ModelSource:
    """What is to be loaded, and by which library.

    Attributes:
        library: The library.
        paths: The model's files.
        servers: The machines that it may be put on, too.
    """

    library: Library
    paths: Sequence[Path]
    servers: RemoteServers | None = None

    def native(self, params: ModelParams) -> tuple[Any, list[Any]]:
        """See `ModelParams.to_native`."""
        return params.to_native(self.library, self.servers)

    def native_paths(self) -> tuple[Any, list[Any]]:
        """The files' names as a `char *[]`, and the texts it points to, to be kept alive."""
        ffi = self.library.ffi
        encoded = [ffi.new("char[]", os.fsencode(path)) for path in self.paths]
        return ffi.new("char *[]", encoded), encoded

    def devices(self) -> tuple[Device, ...]:
        """The devices that it may be put on."""
        remote = self.servers.found if self.servers is not None else ()
        return remote + devices(self.library)


def measure(
    source: ModelSource,
    params: ModelParams,
    context: ContextParams,
    encodes: bool = False,
) -> MemoryPlan:
    """What a model and a context of it would take (llama_get_memory_breakdown).

    Args:
        source: The model.
        params: How it would be loaded.
        context: How the context would be made; n_ctx "auto" stands for the trained length.
        encodes: See `ContextParams.to_native`.

    Raises:
        NativeError: It cannot be loaded.
    """
    library, lib = source.library, source.library.lib
    memory = library.ffi.new("struct llamacffi_memory *")
    model_params, keep = source.native(params)
    context_params = context.to_native(source.library, encodes)
    measured, error = run_fit(
        source,
        lambda names, state, error: lib.llamacffi_measure(
            names, len(source.paths), model_params, context_params, state, memory, error
        ),
    )
    del keep
    if not measured:
        raise NativeError(f"{source.paths[0]} could not be measured: {library.message(error)}")
    rows = [_row(library, memory.rows[index]) for index in range(memory.n_devices + 1)]
    there = host_memory()
    host = replace(rows.pop(), total=there.total, free=there.free)
    n_layers = memory.n_layer + 1
    n_gpu_layers = params.n_gpu_layers
    wanted = n_layers if n_gpu_layers == AUTO or int(n_gpu_layers) < 0 else int(n_gpu_layers)
    return MemoryPlan(
        tuple(rows),
        host,
        min(wanted, n_layers) if rows else 0,
        n_layers,
        memory.n_ctx,
        memory.n_ctx_train,
        buffer_overrides=params.buffer_overrides,
    )


def _row(library: Library, row: Any) -> DeviceMemory:
    def text(chars: Any) -> str:
        return str(library.ffi.string(chars).decode("utf-8", "replace"))

    return DeviceMemory(
        text(row.name), text(row.description), row.total, row.free, row.weights, row.cache,
        row.compute,
    )  # fmt: skip


def run_fit(source: ModelSource, call: Callable[..., Any]) -> tuple[Any, Any]:
    """Call a function that loads the model; returns its result and the error struct."""
    library, ffi = source.library, source.library.ffi
    state, error = ffi.new("struct llamacffi_progress *"), library.new_error()
    names, keep = source.native_paths()
    library.log.follow_level()

    def cancel() -> None:
        state.cancel = 1

    result = run_interruptible(lambda: call(names, state, error), cancel, tick=library.log.drain)
    del keep
    library.log.drain()
    library.check_servers(error, f"Measuring {source.paths[0]}")
    return result, error


def is_about_memory(message: str) -> bool:
    """Whether llama.cpp's words are about memory that could not be had."""
    words = message.lower()
    return "alloc" in words or "memory" in words


def out_of_memory(
    what: str, message: str, advice: str, places: Callable[[], Sequence[DeviceMemory]]
) -> DeviceMemoryError:
    """The error that says how much was needed and how much was there.

    Args:
        what: What failed.
        message: llama.cpp's words.
        advice: What to do.
        places: Measures it; may raise NativeError.
    """
    try:
        used = [place for place in places() if place.needed]
    except NativeError:
        used = []
    figures = "; ".join(
        f"{place.name} needs {in_units(place.needed)} and has {in_units(place.free)} free"
        for place in used
    )
    return DeviceMemoryError(
        f"{what}: {message or 'no reason given'}. {figures}{'. ' if figures else ''}{advice}",
        {place.name: place.needed for place in used},
        {place.name: place.free for place in used},
    )
