"""A loaded model: weights, vocabulary and metadata; contexts are made from it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llamacffi.backends import AUTO, Device, choose
from llamacffi.backends.devices import devices as library_devices
from llamacffi.errors import (
    CancelledError,
    DeviceMemoryError,
    ModelFormatError,
)
from llamacffi.fingerprint import fingerprint
from llamacffi.fitting import Fit, fit_layers
from llamacffi.gguf_check import check_model_file
from llamacffi.load_progress import Progress, reporter
from llamacffi.measuring import SMALLEST, ModelSource, is_about_memory, measure, out_of_memory
from llamacffi.memory_plan import MemoryPlan
from llamacffi.model_files import resolve_files
from llamacffi.model_params import MetadataValue, ModelParams, number_or_auto
from llamacffi.native.handle import Handle, Owner
from llamacffi.native.interruptible import in_main_thread, run_interruptible
from llamacffi.native.library import Library
from llamacffi.rpc import RemoteServers, parse_endpoints
from llamacffi.rpc.remote import RPC_TIMEOUT_SECONDS, check_timeout
from llamacffi.vocab import Vocab

if TYPE_CHECKING:
    from llamacffi.context import Context

__all__ = ["Model"]

logger = logging.getLogger("llamacffi.fitting")

Result = TypeVar("Result")
_CHARS = 256


class Model(Owner):
    """A GGUF model, loaded into memory (llama_model_load_from_file).

    Args:
        path: A file, an alias ("smollm2"), `hf:owner/repo/file.gguf`, or a list of files for a
            model split under names of its own. Of a model split by llama.cpp's scheme
            (`-00001-of-00003.gguf`) the first file is enough.
        backend: "auto" for the best that works here, or a name: that one or an error.
        n_gpu_layers: How many layers to put on the device; negative for all, "auto" for as many
            as `fit` leaves room for. Without a GPU backend it has no effect.
        split_mode: How several GPUs share the model: "none", "layer", "row" or "tensor".
        main_gpu: The GPU that holds all of it with split_mode="none".
        tensor_split: The proportion of the model for each GPU.
        devices: The devices to use, by name (`model.available_devices`); None for all GPUs. A
            software renderer is used only if it is named here.
        buffer_overrides: Regex over tensor names to the buffer type that holds the matching
            tensors, e.g. {"exps": "CPU"}.
        load_mode: "auto", "none" (read), "mmap", "mlock", "mmap+mlock" or "direct-io".
        lazy_mode: Read marked tensors on demand: "off", "auto" or "on".
        metadata_overrides: GGUF metadata to change while loading; `metadata` shows the file's.
        check_tensors: Validate the weights' data while loading.
        vocab_only: Load the vocabulary and the metadata, no weights.
        use_extra_buffers: Let backends repack weights for speed.
        no_host: Bypass the host buffer, so that extra buffers can be used.
        load_mtp: Load the layers for multi-token prediction, if there are any.
        fit: With n_gpu_layers="auto": the context that will be made, how much memory is to stay
            free. None for a context of up to the trained length, and 1 GiB on each device.
        rpc_servers: Workers on other machines, `["host:port", ...]`: their devices hold layers,
            too, and are called "RPC0", "RPC1", ... in this order. See docs/rpc.md: nothing is
            encrypted.
        rpc_timeout: Seconds without an answer after which a worker counts as lost. It should be
            longer than n_batch tokens may take to compute.
        progress: True for a progress bar on standard error; or a callable that gets a number
            from 0 to 1, and cancels the load by returning False.

    Attributes:
        params: The parameters.
        paths: The files.
        library: The library it was loaded with.
        is_remote: Whether other machines hold a part of it, and calls may have to wait for them.

    Raises:
        ModelNotFoundError: No such file or alias.
        ModelFormatError: Not a GGUF file, damaged, or of an architecture that llama.cpp at this
            commit does not know.
        DeviceMemoryError: Too little memory; it says how much was needed and there. With "auto",
            only after loads with less on the devices.
        ModelLoadError: It could not be loaded for another reason.
        BackendUnavailableError: The backend cannot be used here.
        RemoteDeviceError: One of rpc_servers cannot be reached, or was lost.
        CancelledError: The progress callable returned False.
        ValueError: A parameter that makes no sense.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        backend: str = AUTO,
        n_gpu_layers: int | str = -1,
        split_mode: str = "layer",
        main_gpu: int = 0,
        tensor_split: Sequence[float] | None = None,
        devices: Sequence[str] | None = None,
        buffer_overrides: Mapping[str, str] | None = None,
        load_mode: str = "auto",
        lazy_mode: str = "off",
        metadata_overrides: Mapping[str, MetadataValue] | None = None,
        check_tensors: bool = False,
        vocab_only: bool = False,
        use_extra_buffers: bool = True,
        no_host: bool = False,
        load_mtp: bool = False,
        fit: Fit | None = None,
        rpc_servers: str | Sequence[str] | None = None,
        rpc_timeout: float = RPC_TIMEOUT_SECONDS,
        progress: Progress = False,
    ) -> None:
        check_timeout(rpc_timeout)
        self.params = ModelParams(
            n_gpu_layers=number_or_auto("n_gpu_layers", n_gpu_layers),
            split_mode=split_mode,
            main_gpu=main_gpu,
            tensor_split=tensor_split,
            devices=devices,
            buffer_overrides=dict(buffer_overrides or {}),
            load_mode=load_mode,
            lazy_mode=lazy_mode,
            metadata_overrides=dict(metadata_overrides or {}),
            check_tensors=check_tensors,
            vocab_only=vocab_only,
            use_extra_buffers=use_extra_buffers,
            no_host=no_host,
            load_mtp=load_mtp,
            rpc_servers=parse_endpoints(rpc_servers),
        )
        self.paths: list[Path] = resolve_files(path, progress=bool(progress))
        positions = [check_model_file(file, self.params.metadata_overrides) for file in self.paths]
        self._n_positions = next((count for count in positions if count is not None), None)
        self.library: Library = choose(backend, devices or ())
        # What went where, if n_gpu_layers is "auto" and there is a GPU; and how it was asked for.
        self.plan: MemoryPlan | None = None
        self.fit: Fit | None = None
        self._servers: RemoteServers | None = None
        if self.params.rpc_servers and not vocab_only:
            self._servers = RemoteServers(self.library, self.params.rpc_servers, rpc_timeout)
        self.is_remote = self._servers is not None
        try:
            if self.params.n_gpu_layers == AUTO:
                self._handle = self._load_fitted(progress, fit or Fit())
            else:
                self._handle = self._load(progress)
        except BaseException:
            if self._servers is not None:
                self._servers.close()
            raise
        self._handle.keep_alive(self)

    # -- loading and closing ----------------------------------------------------------------

    @property
    def source(self) -> ModelSource:
        """What it is loaded from."""
        return ModelSource(self.library, self.paths, self._servers)

    def _load_fitted(self, progress: Progress, fit: Fit) -> Handle:
        asked = self.params
        while True:
            self.params, self.plan = fit_layers(self.source, asked, fit)
            self.fit = fit
            try:
                return self._load(progress)
            except DeviceMemoryError as error:
                if self.plan is None or fit.next is None:
                    raise
                logger.warning("%s It is tried again with less on the devices.", error)
                fit = fit.next

    def _load(self, progress: Progress) -> Handle:
        library, servers = self.library, self._servers
        ffi, lib = library.ffi, library.lib
        params, keep = self.params.to_native(library, servers)
        state = ffi.new("struct llamacffi_progress *")
        error = library.new_error()
        names, encoded = self.source.native_paths()
        library.log.follow_level()

        def cancel() -> None:
            state.cancel = 1

        def tick() -> None:
            library.log.drain()
            if not report(state.value):
                cancel()

        def destroy(pointer: Any) -> None:
            lib.llama_model_free(pointer)
            if servers is not None:
                servers.close()

        with reporter(progress, self.path.name) as report:
            pointer = run_interruptible(
                lambda: lib.llamacffi_model_load(names, len(encoded), params, state, error),
                cancel,
                discard=lambda model: model and lib.llama_model_free(model),
                tick=tick,
            )
            if pointer:
                handle = Handle("model", pointer, destroy)
                try:
                    state.cancel = not report(1.0)
                except BaseException:
                    handle.close()
                    raise
        library.log.drain()
        del keep
        if not pointer:
            library.check_servers(error, f"Loading {self.path}")
            raise self._load_error(state, library.message(error))
        if state.cancel:
            handle.close()
            raise self._load_error(state, "")
        return handle

    def _load_error(self, state: Any, message: str) -> Exception:
        if state.cancel:
            return CancelledError(f"Loading {self.path} was cancelled by the progress callable.")
        if is_about_memory(message):
            return out_of_memory(
                f"{self.path} could not be loaded",
                message,
                "Free memory, choose a smaller quantisation, or put fewer layers on the device: "
                'n_gpu_layers="auto" finds out how many.',
                lambda: [
                    replace(place, cache=0, compute=0)
                    for place in measure(self.source, self.params, SMALLEST).places
                ],
            )
        words = message.lower()
        hint = "Fetch the file again, or convert it with a llama.cpp of this version."
        if "tensor" in words and "not found" in words and not self.params.vocab_only:
            hint = "If it holds a vocabulary only, load it with vocab_only=True."
        return ModelFormatError(
            f"{self.path} could not be loaded: {message or 'no reason given'}. {hint}"
        )

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r}{', closed' if self.closed else ''})"

    def context(self, **params: Any) -> Context:
        """Make a context of this model; takes the parameters of `Context`."""
        from llamacffi.context import Context

        return Context(self, **params)

    # -- facts ------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The model's (first) file."""
        return self.paths[0]

    @property
    def available_devices(self) -> tuple[Device, ...]:
        """The devices of the library this model was loaded with; first those of its servers.

        Raises:
            RemoteDeviceError: A server does not answer.
        """
        if self._servers is None:
            return library_devices(self.library)
        with self._handle.lock:
            _ = self._handle.pointer  # refuses a model whose connections are closed
            return self._servers.devices() + library_devices(self.library)

    def waiting(
        self,
        call: Callable[[], Result],
        cancel: Callable[[], object],
        discard: Callable[[Result], object] | None = None,
    ) -> Result:
        """Make a native call that may wait for another machine, so that Ctrl-C ends it.

        Args:
            call: The call, short but for that.
            cancel: See `run_interruptible`.
            discard: See `run_interruptible`.
        """
        if self.is_remote and in_main_thread():
            return run_interruptible(call, cancel, discard)
        return call()

    @cached_property
    def vocab(self) -> Vocab:
        """The vocabulary."""
        return Vocab(self)

    @cached_property
    def fingerprint(self) -> str:
        """Tells this model, in this quantisation, from others: 32 hexadecimal digits.

        Raises:
            OSError: The file is not there any more.
        """
        return fingerprint(self.paths, self.params.metadata_overrides)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The GGUF metadata as text, arrays left out (llama_model_meta_val_str_by_index)."""
        lib = self.library.lib
        with self._handle.lock:
            count = lib.llama_model_meta_count(self._handle.pointer)
            return {
                self._text(lib.llama_model_meta_key_by_index, index): self._text(
                    lib.llama_model_meta_val_str_by_index, index
                )
                for index in range(count)
            }

    def _text(self, function: Any, *arguments: Any) -> str:
        """Call a function that fills a buffer like snprintf."""
        ffi = self.library.ffi
        room = _CHARS
        while True:
            buffer = ffi.new("char[]", room)
            length = function(self._handle.pointer, *arguments, buffer, room)
            if length < room:
                return str(bytes(ffi.buffer(buffer, max(length, 0))).decode("utf-8", "replace"))
            room = length + 1

    def _fact(self, function: str) -> Any:
        with self._handle.lock:
            return getattr(self.library.lib, function)(self._handle.pointer)

    @property
    def description(self) -> str:
        """The kind of model, e.g. "llama ?B Q4_1" (llama_model_desc)."""
        with self._handle.lock:
            return self._text(self.library.lib.llama_model_desc)

    @property
    def architecture(self) -> str:
        """The architecture's name in the metadata, e.g. "llama"."""
        return self.metadata.get("general.architecture", "unknown")

    @property
    def size(self) -> int:
        """Bytes of all tensors (llama_model_size)."""
        return int(self._fact("llama_model_size"))

    @property
    def n_params(self) -> int:
        """Number of parameters (llama_model_n_params)."""
        return int(self._fact("llama_model_n_params"))

    @property
    def n_ctx_train(self) -> int:
        """Context length that it was trained for, in tokens (llama_model_n_ctx_train)."""
        return int(self._fact("llama_model_n_ctx_train"))

    @property
    def n_embd(self) -> int:
        """Width of the embeddings (llama_model_n_embd)."""
        return int(self._fact("llama_model_n_embd"))

    @property
    def n_embd_out(self) -> int:
        """Width of the output embeddings (llama_model_n_embd_out)."""
        return int(self._fact("llama_model_n_embd_out"))

    @property
    def n_embd_inp(self) -> int:
        """Width of the input embeddings (llama_model_n_embd_inp)."""
        return int(self._fact("llama_model_n_embd_inp"))

    @property
    def n_layer(self) -> int:
        """Number of layers (llama_model_n_layer)."""
        return int(self._fact("llama_model_n_layer"))

    @property
    def n_head(self) -> int:
        """Number of attention heads (llama_model_n_head)."""
        return int(self._fact("llama_model_n_head"))

    @property
    def n_head_kv(self) -> int:
        """Number of key and value heads (llama_model_n_head_kv)."""
        return int(self._fact("llama_model_n_head_kv"))

    @property
    def n_swa(self) -> int:
        """Length of the sliding attention window in tokens; 0 for none (llama_model_n_swa)."""
        return int(self._fact("llama_model_n_swa"))

    @property
    def n_cls_out(self) -> int:
        """Number of outputs of a classifier (llama_model_n_cls_out)."""
        return int(self._fact("llama_model_n_cls_out"))

    @cached_property
    def classifier_labels(self) -> tuple[str, ...]:
        """The names of a classifier's outputs; empty if they have none (llama_model_cls_label)."""
        ffi, label = self.library.ffi, self.library.lib.llama_model_cls_label
        with self._handle.lock:
            texts = [label(self._handle.pointer, index) for index in range(self.n_cls_out)]
            return tuple(ffi.string(t).decode("utf-8", "replace") for t in texts if t != ffi.NULL)

    @property
    def rope_freq_scale_train(self) -> float:
        """RoPE frequency scale of the training (llama_model_rope_freq_scale_train)."""
        return float(self._fact("llama_model_rope_freq_scale_train"))

    @property
    def has_encoder(self) -> bool:
        """Whether there is an encoder to run first, as in T5 (llama_model_has_encoder)."""
        return bool(self._fact("llama_model_has_encoder"))

    @property
    def has_decoder(self) -> bool:
        """Whether it can generate (llama_model_has_decoder)."""
        return bool(self._fact("llama_model_has_decoder"))

    @property
    def decoder_start_token(self) -> int | None:
        """What the decoder of an encoder-decoder model starts from, if it has such a token."""
        token = int(self._fact("llama_model_decoder_start_token"))
        return None if token < 0 else token

    @property
    def is_recurrent(self) -> bool:
        """Whether its memory is a state, not a cache, as in Mamba (llama_model_is_recurrent)."""
        return bool(self._fact("llama_model_is_recurrent"))

    @property
    def is_hybrid(self) -> bool:
        """Whether it mixes attention and recurrent layers (llama_model_is_hybrid)."""
        return bool(self._fact("llama_model_is_hybrid"))

    @property
    def is_diffusion(self) -> bool:
        """Whether it is a diffusion model (llama_model_is_diffusion)."""
        return bool(self._fact("llama_model_is_diffusion"))

    def chat_template(self, name: str | None = None) -> str | None:
        """The chat template in the file, unrendered and untrusted (llama_model_chat_template)."""
        ffi = self.library.ffi
        with self._handle.lock:
            text = self.library.lib.llama_model_chat_template(
                self._handle.pointer, ffi.NULL if name is None else name.encode()
            )
            return None if text == ffi.NULL else str(ffi.string(text).decode("utf-8", "replace"))
