"""A context: the working state of one model, where tokens are decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llamacffi.backends import AUTO
from llamacffi.context_memory import check_size, create_fitted, init_error
from llamacffi.context_params import ContextParams
from llamacffi.decoding import Decoding
from llamacffi.errors import ContextInitError, UnsupportedError
from llamacffi.fitting import MARGIN, N_CTX_MIN, Fit
from llamacffi.memory import Memory
from llamacffi.native.handle import Handle, Owner
from llamacffi.state import States

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llamacffi.adapter import Adapter
    from llamacffi.model import Model
    from llamacffi.prompt_cache import BasePromptCache

__all__ = ["Context", "PerformanceCounters"]

FLOAT_BYTES = 4
# How long idle threads spin before they sleep, in units of some 5 ms: long enough for the gap
# between two tokens; upstream's 50 lets one context's idle threads slow another one's work.
POLLING_LEVEL = 1


@dataclass(frozen=True)
class PerformanceCounters:
    """What a context has done since the last reset (llama_perf_context_data).

    Attributes:
        prompt_ms: Milliseconds in batches of several tokens.
        eval_ms: Milliseconds in single tokens.
        n_prompt: Tokens in batches of several.
        n_eval: Single tokens.
        n_reused: How often a compute graph was used again.
    """

    prompt_ms: float
    eval_ms: float
    n_prompt: int
    n_eval: int
    n_reused: int


class Context(Decoding, States, Owner):
    """A context of a model (llama_init_from_model); `model.context(...)` makes one too.

    A context has a lock: a second thread waits until the first one's call is over. `cancel` and
    `close` may be called while another thread decodes.

    Args:
        model: The model.
        n_ctx: Tokens that it can hold, all sequences together; 0 for what the model was trained
            for, which may need much memory; "auto" for as much of that as the free memory has
            room for.
        n_batch: Most tokens in one decode; longer prompts are cut into several.
        n_ubatch: Most tokens computed at once; None for 512, or n_batch where the model has an
            encoder.
        n_seq_max: Number of sequences.
        n_outputs_max: Most rows of logits or embeddings of one decode; None for n_batch with
            embeddings, else for a few, which saves memory.
        n_threads: Threads for single tokens; None for one per physical core.
        n_threads_batch: Threads for batches; None for n_threads.
        embeddings: Compute embeddings.
        pooling: How a sequence's embeddings are joined: "unspecified" (the model's way), "none",
            "mean", "cls", "last" or "rank".
        attention: "unspecified" (the model's way), "causal" or "non-causal".
        flash_attention: "auto", "on" or "off".
        type_k: Type of the cached keys: "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl",
            "q5_0" or "q5_1".
        type_v: Type of the cached values.
        kv_unified: One buffer for all sequences, so that they can share a prefix.
        swa_full: Keep all of the sliding window's cache, so that any prefix can be used again.
        offload_kqv: Keep the cache on the device.
        op_offload: Let the device do large operations of layers that stay on the host.
        no_perf: Leave the performance counters at zero.
        n_recurrent_snapshots: Snapshots of a recurrent state per sequence, to go back to.
        rope_scaling: "unspecified" (the model's way), "none", "linear", "yarn" or "longrope".
        rope_freq_base: RoPE base frequency; 0 for the model's.
        rope_freq_scale: RoPE frequency scale; 0 for the model's.
        yarn_ext_factor: YaRN extrapolation mix; negative for the model's.
        yarn_attn_factor: YaRN magnitude scale; negative for the model's.
        yarn_beta_fast: YaRN low correction dimension; negative for the model's.
        yarn_beta_slow: YaRN high correction dimension; negative for the model's.
        yarn_orig_ctx: YaRN original context size; 0 for the model's.
        n_ctx_min: The shortest that n_ctx="auto" comes to, if the model was trained for as much.
        fit_margin: MiB that n_ctx="auto" leaves free on each device and on the host.

    Raises:
        ContextInitError: These parameters do not work for the model.
        DeviceMemoryError: Too little memory; with n_ctx="auto", for the shortest context.
        UnsupportedError: The model was loaded with vocab_only=True, or with split_mode="tensor"
            and the cache is not to be on the devices.
        ParameterError: An unknown choice.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int | str = 0,
        n_batch: int = 2048,
        n_ubatch: int | None = None,
        n_seq_max: int = 1,
        n_outputs_max: int | None = None,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        embeddings: bool = False,
        pooling: str = "unspecified",
        attention: str = "unspecified",
        flash_attention: str = "auto",
        type_k: str = "f16",
        type_v: str = "f16",
        kv_unified: bool = False,
        swa_full: bool = False,
        offload_kqv: bool = True,
        op_offload: bool = True,
        no_perf: bool = True,
        n_recurrent_snapshots: int = 0,
        rope_scaling: str = "unspecified",
        rope_freq_base: float = 0.0,
        rope_freq_scale: float = 0.0,
        yarn_ext_factor: float = -1.0,
        yarn_attn_factor: float = -1.0,
        yarn_beta_fast: float = -1.0,
        yarn_beta_slow: float = -1.0,
        yarn_orig_ctx: int = 0,
        n_ctx_min: int = N_CTX_MIN,
        fit_margin: int = MARGIN,
    ) -> None:
        self.params = ContextParams(
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_ubatch=n_ubatch,
            n_seq_max=n_seq_max,
            n_outputs_max=n_outputs_max,
            n_threads=n_threads,
            n_threads_batch=n_threads_batch,
            embeddings=embeddings,
            pooling=pooling,
            attention=attention,
            flash_attention=flash_attention,
            type_k=type_k,
            type_v=type_v,
            kv_unified=kv_unified,
            swa_full=swa_full,
            offload_kqv=offload_kqv,
            op_offload=op_offload,
            no_perf=no_perf,
            n_recurrent_snapshots=n_recurrent_snapshots,
            rope_scaling=rope_scaling,
            rope_freq_base=rope_freq_base,
            rope_freq_scale=rope_freq_scale,
            yarn_ext_factor=yarn_ext_factor,
            yarn_attn_factor=yarn_attn_factor,
            yarn_beta_fast=yarn_beta_fast,
            yarn_beta_slow=yarn_beta_slow,
            yarn_orig_ctx=yarn_orig_ctx,
        )
        self.model = model
        self.library = library = model.library
        self._ffi, self._lib = library.ffi, library.lib
        self._error = library.new_error()
        self._state = self._ffi.new("struct llamacffi_progress *")
        fit = Fit(self.params, fit_margin, n_ctx_min)
        if n_ctx == AUTO and not model.params.vocab_only:
            self._handle = create_fitted(model, fit, self._encodes, self._create_sized)
        else:
            self._handle = self._create()
        self._handle.keep_alive(self)
        pointer = self._handle.pointer
        self.n_ctx: int = self._lib.llama_n_ctx(pointer)
        self.n_ctx_seq: int = self._lib.llama_n_ctx_seq(pointer)
        if model._n_positions is not None:
            self.n_ctx_seq = min(self.n_ctx_seq, model._n_positions)
        self.n_batch: int = self._lib.llama_n_batch(pointer)
        self.n_ubatch: int = self._lib.llama_n_ubatch(pointer)
        self.n_seq_max: int = self._lib.llama_n_seq_max(pointer)
        # Upstream sets it to 0 for models that it cannot take snapshots of.
        self.n_recurrent_snapshots: int = self._lib.llama_n_rs_seq(pointer)
        self.pooling: str = _POOLING_NAMES.get(int(self._lib.llama_pooling_type(pointer)), "none")
        self._n_vocab = model.vocab.n_tokens
        self._embeddings = embeddings
        self._rows_reserved = self.n_seq_max
        self._has_memory = bool(self._lib.llama_get_memory(pointer))
        self.memory = Memory(self)
        self.adapters: tuple[tuple[Adapter, float], ...] = ()
        # Asked before a prompt is computed; see generation.prepare.
        self.prompt_cache: BasePromptCache | None = None

    # -- creating and closing ---------------------------------------------------------------

    @property
    def _encodes(self) -> bool:
        return self.model.has_encoder or self.params.attention == "non-causal"

    def _create_sized(self, n_ctx: int) -> Handle:
        self.params = replace(self.params, n_ctx=n_ctx)
        return self._create()

    def _create(self) -> Handle:
        if self.model.params.vocab_only:
            raise UnsupportedError(
                f"{self.model} was loaded with vocab_only=True and has no weights to compute with. "
                "Load it without."
            )
        if self.model.params.split_mode == "tensor" and not self.params.offload_kqv:
            # Upstream accepts it, and computes other text.
            raise UnsupportedError(
                'offload_kqv=False: a model split with split_mode="tensor" has its cache on the '
                'devices. Leave offload_kqv on, or split by "layer".'
            )
        lib, parent = self._lib, self.model._handle
        params = self.params.to_native(self.library, self._encodes)
        self.n_outputs_max: int = params.n_outputs_max
        check_size(self.model, params)
        threads = max(params.n_threads, params.n_threads_batch)
        with parent.lock:
            pointer, state, error = parent.pointer, self._state, self._error

            def cancel() -> None:
                state.cancel = 1

            context = self.model.waiting(
                lambda: lib.llamacffi_context_init(pointer, params, state, error),
                cancel,
                lambda made: made and lib.llamacffi_context_free(made),
            )
            self.library.log.drain()
            self.library.check_servers(self._error, "Making a context", parent)
            if not context:
                message = self.library.message(self._error)
                raise init_error(self.model, self.params, self._encodes, message)
            # Threads that live as long as the context: otherwise each token starts new ones.
            self._pool_params = self._ffi.new("struct ggml_threadpool_params *")
            lib.ggml_threadpool_params_init(self._pool_params, threads)
            self._pool_params.poll = POLLING_LEVEL
            self._pool = pool = lib.ggml_threadpool_new(self._pool_params)
            if pool:
                lib.llama_attach_threadpool(context, pool, pool)

            def destroy(pointer: Any) -> None:
                lib.llamacffi_context_free(pointer)
                if pool:
                    lib.ggml_threadpool_free(pool)

            # None of these knows self: the handle must not keep the context alive.
            return Handle("context", context, destroy, parent, cancel)

    def __repr__(self) -> str:
        return f"Context({self.model!r}, n_ctx={self.n_ctx}{', closed' if self.closed else ''})"

    # -- outputs ----------------------------------------------------------------------------

    def logits(self, index: int = -1) -> NDArray[np.float32]:
        """The logits of one output of the last decode (llama_get_logits_ith).

        Args:
            index: The token's place in the batch; negative from the last output backwards.

        Returns:
            float32 of shape (n_vocab,): a writable view, no copy. It shows other numbers after
            the next decode; copy what is to stay.

        Raises:
            IndexError: There is no output at this index.
        """
        return self._view(self._lib.llama_get_logits_ith, index, self._n_vocab, "logits")

    def embeddings(self, index: int = -1) -> NDArray[np.float32]:
        """The embedding of one output of the last decode (llama_get_embeddings_ith).

        Args:
            index: The token's place in the batch; negative from the last output backwards.

        Returns:
            float32 of shape (n_embd_out,): a view, as with logits.

        Raises:
            IndexError: There is no output at this index.
            UnsupportedError: The context was made without embeddings.
        """
        if not self._embeddings and not self.model.has_encoder:
            raise UnsupportedError("This context computes no embeddings. Use embeddings=True.")
        return self._view(
            self._lib.llama_get_embeddings_ith, index, self.model.n_embd_out, "embedding"
        )

    def pooled_embedding(self, sequence: int = 0) -> NDArray[np.float32]:
        """The embedding of a whole sequence (llama_get_embeddings_seq).

        Returns:
            float32 of shape (n_embd_out,), or (n_cls_out,) with pooling "rank": a copy.

        Raises:
            UnsupportedError: The context was made without embeddings or pooling.
            IndexError: The sequence was not in the last batch.
        """
        import numpy as np

        if not self._embeddings or self.pooling == "none":
            raise UnsupportedError(
                f"This context pools nothing (embeddings={self._embeddings}, pooling="
                f"{self.pooling!r}). Use embeddings=True and pooling='mean', 'cls' or 'last'."
            )
        with self._handle.lock:
            pointer = self._lib.llama_get_embeddings_seq(self._handle.pointer, sequence)
            if not pointer:
                raise IndexError(f"Sequence {sequence} was not in the last batch.")
            width = self.model.n_cls_out if self.pooling == "rank" else self.model.n_embd_out
            buffer = self._ffi.buffer(pointer, width * FLOAT_BYTES)
            return np.frombuffer(buffer, np.float32).copy()

    def _view(self, function: Any, index: int, width: int, what: str) -> NDArray[np.float32]:
        import numpy as np

        with self._handle.lock:
            inside = -self.n_batch <= index < self.n_batch
            pointer = function(self._handle.pointer, index) if inside else None
            if not pointer:
                self.library.log.drain()
                raise IndexError(
                    f"The last decode has no {what} at index {index}. Ask for outputs when "
                    "decoding."
                )
            array = np.frombuffer(self._ffi.buffer(pointer, width * FLOAT_BYTES), np.float32)
            self._handle.pin(array)  # closing waits with freeing until the array is gone
            return array

    # -- settings and counters ----------------------------------------------------------------

    def set_threads(self, n_threads: int, n_threads_batch: int | None = None) -> None:
        """Use fewer threads, up to the number that the context was made with (llama_set_n_threads).

        Raises:
            ContextInitError: More threads than the context has.
        """
        most = int(self._pool_params.n_threads)
        for value in (n_threads, n_threads_batch or n_threads):
            if not 1 <= value <= most:
                raise ContextInitError(
                    f"{value} threads were asked for; this context has 1 to {most}. Make it "
                    "with more."
                )
        with self._handle.lock:
            self._lib.llama_set_n_threads(
                self._handle.pointer, n_threads, n_threads_batch or n_threads
            )

    @property
    def n_threads(self) -> int:
        """Threads for single tokens (llama_n_threads)."""
        with self._handle.lock:
            return int(self._lib.llama_n_threads(self._handle.pointer))

    @property
    def n_threads_batch(self) -> int:
        """Threads for batches (llama_n_threads_batch)."""
        with self._handle.lock:
            return int(self._lib.llama_n_threads_batch(self._handle.pointer))

    def set_embeddings(self, embeddings: bool) -> None:
        """Compute embeddings from now on, or logits alone (llama_set_embeddings).

        With embeddings, llama.cpp outputs every token of a decode, wanted or not.
        """
        with self._handle.lock:
            self._lib.llama_set_embeddings(self._handle.pointer, embeddings)
            self._embeddings = embeddings
            self._rows_reserved = 0  # rows have another width

    @contextmanager
    def computing_embeddings(self) -> Iterator[None]:
        """Compute embeddings in this block, which no other thread's decode interrupts."""
        with self._handle.lock:
            before = self._embeddings
            if not before:
                self.set_embeddings(True)
            try:
                yield
            finally:
                if not before and not (self.closed or self._handle.broken):
                    self.set_embeddings(False)

    @property
    def generates(self) -> bool:
        """Whether it can generate text: the model decodes, and remembers what it decoded."""
        return self._has_memory and self.model.has_decoder

    @property
    def causal(self) -> bool:
        """Whether tokens attend to the past only (llama_get_causal_attn)."""
        with self._handle.lock:
            return bool(self._lib.llama_get_causal_attn(self._handle.pointer))

    def set_causal_attention(self, causal: bool) -> None:
        """Attend to the past only, or to everything in the batch (llama_set_causal_attn)."""
        with self._handle.lock:
            self._lib.llama_set_causal_attn(self._handle.pointer, causal)
            self.memory.forget_tokens()

    def set_adapters(self, adapters: Sequence[tuple[Adapter, float]]) -> None:
        """Use LoRA adapters, each with a scale, in place of those before; [] for none.

        Raises:
            AdapterError: An adapter of another model.
        """
        from llamacffi.adapter import set_adapters

        set_adapters(self, adapters)

    def warm_up(self) -> None:
        """Run one token through the model and forget it: the first real one is then fast."""
        vocab = self.model.vocab
        token = next((t for t in (vocab.bos, vocab.eos) if t is not None), 0)
        if self.memory.position_max(0) >= 0:
            return  # it has run already
        if self.model.has_encoder:
            self.encode([token])
        if self.model.has_decoder and self._has_memory:
            start = self.model.decoder_start_token
            self.decode_tokens([token if start is None else start])
            self.memory.clear()
        self.reset_performance()

    def synchronize(self) -> None:
        """Wait until all computing is over (llama_synchronize)."""
        with self._handle.lock:
            self._lib.llama_synchronize(self._handle.pointer)

    @property
    def performance(self) -> PerformanceCounters:
        """The counters since the last reset; zero with no_perf (llama_perf_context)."""
        with self._handle.lock:
            data = self._lib.llama_perf_context(self._handle.pointer)
        return PerformanceCounters(
            data.t_p_eval_ms,
            data.t_eval_ms,
            data.n_p_eval,
            data.n_eval,
            data.n_reused,
        )

    def reset_performance(self) -> None:
        """Set the counters to zero (llama_perf_context_reset)."""
        with self._handle.lock:
            self._lib.llama_perf_context_reset(self._handle.pointer)


_POOLING_NAMES = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
