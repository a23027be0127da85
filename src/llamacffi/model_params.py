"""How a model is loaded: `llama_model_params`, checked and in Python's terms."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamacffi.backends import AUTO, Device
from llamacffi.backends.devices import device_pointers, devices
from llamacffi.backends.software import computing, default_devices
from llamacffi.errors import ParameterError
from llamacffi.native.library import Library
from llamacffi.rpc import Endpoint, RemoteServers

__all__ = ["LAZY_MODES", "LOAD_MODES", "SPLIT_MODES", "ModelParams", "choice", "number_or_auto"]

SPLIT_MODES = {"none": 0, "layer": 1, "row": 2, "tensor": 3}
LOAD_MODES = {"auto": -1, "none": 0, "mmap": 1, "mlock": 2, "mmap+mlock": 3, "direct-io": 4}
LAZY_MODES = {"off": 0, "auto": 1, "on": 2}

MetadataValue = bool | int | float | str
_SPLIT_BUFFERS = b"ggml_backend_split_buffer_type"  # what llama.cpp asks a backend for
_OVERRIDE_BYTES = 128  # char key[128], val_str[128] in struct llama_model_kv_override


def choice(name: str, value: str, choices: Mapping[str, int]) -> int:
    """The native number of a named choice, or a ParameterError that lists the names."""
    try:
        return choices[value]
    except (KeyError, TypeError):
        raise ParameterError(f"{name}={value!r}: choose one of {', '.join(choices)}.") from None


def number_or_auto(name: str, value: Any) -> int | str:
    """A whole number, or "auto"; else a ParameterError."""
    if isinstance(value, str) and value == AUTO:
        return AUTO
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ParameterError(f"{name}={value!r}: give a whole number, or {AUTO!r}.")
    return operator.index(value)


@dataclass(frozen=True)
class ModelParams:
    """The parameters of `llama_model_load_from_file`; see `Model` for what each one means."""

    n_gpu_layers: int | str = -1
    split_mode: str = "layer"
    main_gpu: int = 0
    tensor_split: Sequence[float] | None = None
    devices: Sequence[str] | None = None
    buffer_overrides: Mapping[str, str] = field(default_factory=dict)
    load_mode: str = "auto"
    lazy_mode: str = "off"
    metadata_overrides: Mapping[str, MetadataValue] = field(default_factory=dict)
    check_tensors: bool = False
    vocab_only: bool = False
    use_extra_buffers: bool = True
    no_host: bool = False
    load_mtp: bool = False
    rpc_servers: tuple[Endpoint, ...] = ()

    def to_native(
        self, library: Library, servers: RemoteServers | None = None
    ) -> tuple[Any, list[Any]]:
        """Build the struct.

        Args:
            library: What the model is to be loaded with.
            servers: The connections to `rpc_servers`; None without any.

        Returns:
            The `struct llama_model_params *`, and the objects it points to, to be kept alive
            until the load is over.

        Raises:
            ParameterError: A value that llama.cpp would misread or crash on.
        """
        ffi, lib = library.ffi, library.lib
        params = ffi.new("struct llama_model_params *", lib.llama_model_default_params())
        keep: list[Any] = []
        known = _known_devices(library, servers)
        found = [device for device, _ in known]
        names = self.devices
        if names is None:
            names = default_devices(found, self.split_mode)
        if names is None and servers is not None:
            names = _default_devices(known)
        n_gpu_layers = number_or_auto("n_gpu_layers", self.n_gpu_layers)
        params.n_gpu_layers = -1 if n_gpu_layers == AUTO else n_gpu_layers
        params.split_mode = choice("split_mode", self.split_mode, SPLIT_MODES)
        self._check_rows(library, known)
        params.load_mode = choice("load_mode", self.load_mode, LOAD_MODES)
        params.lazy_mode = choice("lazy_mode", self.lazy_mode, LAZY_MODES)
        params.main_gpu = self._checked_main_gpu(found)
        params.vocab_only = self.vocab_only
        params.check_tensors = self.check_tensors
        params.use_extra_bufts = self.use_extra_buffers
        params.no_host = self.no_host
        params.load_mtp = self.load_mtp
        if self.tensor_split is not None:
            params.tensor_split = self._tensor_split(library, keep)
        if names is not None:
            params.devices = self._devices(library, known, names, keep)
        if self.buffer_overrides:
            params.tensor_buft_overrides = self._buffer_overrides(library, known, keep)
        if self.metadata_overrides:
            params.kv_overrides = self._metadata_overrides(library, keep)
        return params, keep

    def _checked_main_gpu(self, found: Sequence[Device]) -> int:
        gpus = computing(found, self.devices, self.split_mode)
        if self.main_gpu < 0 or self.main_gpu >= max(1, len(gpus)):
            raise ParameterError(
                f"main_gpu={self.main_gpu}: there are {len(gpus)} GPU devices to choose from."
            )
        return self.main_gpu

    def _tensor_split(self, library: Library, keep: list[Any]) -> Any:
        assert self.tensor_split is not None
        limit = library.lib.llama_max_devices()
        values = [float(value) for value in self.tensor_split]
        if len(values) > limit or any(not 0 <= value < float("inf") for value in values):
            raise ParameterError(
                f"tensor_split={list(self.tensor_split)}: give up to {limit} proportions, each 0 "
                "or more."
            )
        array = library.ffi.new("float[]", values + [0.0] * (limit - len(values)))
        keep.append(array)
        return array

    def _check_rows(self, library: Library, known: Sequence[tuple[Device, Any]]) -> None:
        """Refuse split_mode="row" for devices that cannot; llama.cpp would blame the file."""
        if self.split_mode != "row":
            return
        used = computing([device for device, _ in known], self.devices, self.split_mode)
        for device, pointer in known:
            registry = library.lib.ggml_backend_dev_backend_reg(pointer)
            splits = library.lib.ggml_backend_reg_get_proc_address(registry, _SPLIT_BUFFERS)
            if device in used and not splits:
                raise ParameterError(
                    f"split_mode='row': {device.name} cannot hold rows of a tensor. Choose 'layer'."
                )

    def _devices(
        self,
        library: Library,
        known: Sequence[tuple[Device, Any]],
        names: Sequence[str],
        keep: list[Any],
    ) -> Any:
        by_name = {device.name: (device, pointer) for device, pointer in known}
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise ParameterError(
                f"devices={list(names)}: this library has {', '.join(by_name)}, "
                f"not {', '.join(map(repr, unknown))}."
            )
        # llama.cpp always has the CPU at hand and refuses it in this list.
        chosen = [by_name[name] for name in names]
        pointers = [pointer for device, pointer in chosen if device.type != "cpu"]
        limit = library.lib.llama_max_devices()
        if len(pointers) > limit:
            raise ParameterError(
                f"devices={list(names)}: llama.cpp splits a model over {limit} devices at most. "
                "Name fewer."
            )
        array = library.ffi.new("ggml_backend_dev_t[]", [*pointers, library.ffi.NULL])
        keep.append(array)
        return array

    def _buffer_overrides(
        self, library: Library, known: Sequence[tuple[Device, Any]], keep: list[Any]
    ) -> Any:
        ffi, lib = library.ffi, library.lib
        types = {}
        for _, pointer in known:
            buffer_type = lib.ggml_backend_dev_buffer_type(pointer)
            if buffer_type:
                types[ffi.string(lib.ggml_backend_buft_name(buffer_type)).decode()] = buffer_type
        rows = []
        for pattern, name in self.buffer_overrides.items():
            if name not in types:
                raise ParameterError(
                    f"buffer_overrides={{{pattern!r}: {name!r}}}: the buffer types are "
                    f"{', '.join(types)}."
                )
            try:
                re.compile(pattern)  # llama.cpp compiles it as ECMAScript, close enough for a check
            except re.error as error:
                raise ParameterError(
                    f"buffer_overrides: {pattern!r} is no regex: {error}."
                ) from None
            text = ffi.new("char[]", pattern.encode())
            keep.append(text)
            rows.append({"pattern": text, "buft": types[name]})
        rows.append({"pattern": ffi.NULL, "buft": ffi.NULL})
        array = ffi.new("struct llama_model_tensor_buft_override[]", rows)
        keep.append(array)
        return array

    def _metadata_overrides(self, library: Library, keep: list[Any]) -> Any:
        ffi, lib = library.ffi, library.lib
        array = ffi.new("struct llama_model_kv_override[]", len(self.metadata_overrides) + 1)
        for row, (key, value) in zip(array, self.metadata_overrides.items(), strict=False):
            row.key = _short(key, "key")
            if isinstance(value, bool):
                row.tag, row.val_bool = lib.LLAMA_KV_OVERRIDE_TYPE_BOOL, value
            elif isinstance(value, int):
                row.tag, row.val_i64 = lib.LLAMA_KV_OVERRIDE_TYPE_INT, value
            elif isinstance(value, float):
                row.tag, row.val_f64 = lib.LLAMA_KV_OVERRIDE_TYPE_FLOAT, value
            elif isinstance(value, str):
                row.tag, row.val_str = lib.LLAMA_KV_OVERRIDE_TYPE_STR, _short(value, "value")
            else:
                raise TypeError(
                    f"metadata_overrides[{key!r}] is a {type(value).__name__}: "
                    "give a bool, int, float or str."
                )
        keep.append(array)
        return array


def _known_devices(library: Library, servers: RemoteServers | None) -> list[tuple[Device, Any]]:
    """Each device that the model may use, and its pointer; those of servers first."""
    known = list(zip(devices(library), device_pointers(library), strict=True))
    if servers is None:
        return known
    return [*zip(servers.found, servers.pointers, strict=True), *known]


def _default_devices(known: Sequence[tuple[Device, Any]]) -> list[str]:
    """As llama.cpp chooses: servers, then GPUs, or integrated ones where there is no other."""
    gpus = [device.name for device, _ in known if device.type == "gpu"]
    if all(name.startswith("RPC") for name in gpus):
        gpus += [device.name for device, _ in known if device.type == "igpu"]
    return gpus


def _short(text: str, what: str) -> bytes:
    encoded = text.encode()
    if not encoded or len(encoded) >= _OVERRIDE_BYTES or 0 in encoded:
        raise ParameterError(
            f"metadata_overrides: the {what} {text!r} must have 1 to {_OVERRIDE_BYTES - 1} bytes."
        )
    return encoded
