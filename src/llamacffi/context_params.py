"""How a context is made: `llama_context_params`, checked and in Python's terms."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any

from llamacffi.errors import ContextInitError
from llamacffi.model_params import choice, number_or_auto
from llamacffi.native.library import Library

__all__ = ["ContextParams", "default_threads"]

ROPE_SCALING = {"unspecified": -1, "none": 0, "linear": 1, "yarn": 2, "longrope": 3}
POOLING = {"unspecified": -1, "none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
ATTENTION = {"unspecified": -1, "causal": 0, "non-causal": 1}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
CACHE_TYPES = {
    "f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2, "q4_1": 3, "iq4_nl": 20, "q5_0": 6,
    "q5_1": 7,
}  # fmt: skip
MAX_THREADS = 512  # GGML_MAX_N_THREADS
MAX_COUNT = 2**31 - 1
# Rows of logits that a context keeps unless told otherwise: enough to check a draft, and to score a
# text in chunks. A row takes n_vocab floats, twice.
FEW_OUTPUTS = 32


@functools.cache
def default_threads() -> int:
    """One thread per physical core that this process may run on, as llama.cpp's tools do."""
    import psutil

    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed, MAX_THREADS))


@dataclass(frozen=True)
class ContextParams:
    """The parameters of `llama_init_from_model`; see `Context` for what each one means."""

    n_ctx: int | str = 0
    n_batch: int = 2048
    n_ubatch: int | None = None
    n_seq_max: int = 1
    n_outputs_max: int | None = None
    n_threads: int | None = None
    n_threads_batch: int | None = None
    embeddings: bool = False
    pooling: str = "unspecified"
    attention: str = "unspecified"
    flash_attention: str = "auto"
    type_k: str = "f16"
    type_v: str = "f16"
    kv_unified: bool = False
    swa_full: bool = False
    offload_kqv: bool = True
    op_offload: bool = True
    no_perf: bool = True
    n_recurrent_snapshots: int = 0
    rope_scaling: str = "unspecified"
    rope_freq_base: float = 0.0
    rope_freq_scale: float = 0.0
    yarn_ext_factor: float = -1.0
    yarn_attn_factor: float = -1.0
    yarn_beta_fast: float = -1.0
    yarn_beta_slow: float = -1.0
    yarn_orig_ctx: int = 0

    @property
    def n_streams(self) -> int:
        """Buffers that the cache is divided in, each of which is to have the full length."""
        return 1 if self.kv_unified else self.n_seq_max

    def to_native(self, library: Library, encodes: bool) -> Any:
        """Build the struct.

        Args:
            library: Whose struct it is.
            encodes: The model has an encoder, which takes a whole text at once.

        Returns:
            A `struct llama_context_params *`.

        Raises:
            ContextInitError: A number out of its range.
            ParameterError: An unknown choice.
        """
        lib = library.lib
        params = library.ffi.new(
            "struct llama_context_params *", lib.llama_context_default_params()
        )
        n_ctx = number_or_auto("n_ctx", self.n_ctx)
        params.n_ctx = 0 if isinstance(n_ctx, str) else self._number("n_ctx", n_ctx, 0)
        params.n_batch = self._number("n_batch", self.n_batch, 1)
        wanted = self.n_ubatch or (self.n_batch if encodes else min(512, self.n_batch))
        params.n_ubatch = min(self._number("n_ubatch", wanted, 1), self.n_batch)
        most = int(lib.llama_max_parallel_sequences())
        params.n_seq_max = self._number("n_seq_max", self.n_seq_max, 1, most)
        every = self.embeddings or encodes
        outputs = self.n_outputs_max or (
            self.n_batch if every else max(FEW_OUTPUTS, self.n_seq_max)
        )
        params.n_outputs_max = max(
            self.n_seq_max, min(self._number("n_outputs_max", outputs, 1), self.n_batch)
        )
        threads = self.n_threads or default_threads()
        params.n_threads = self._number("n_threads", threads, 1, MAX_THREADS)
        params.n_threads_batch = self._number(
            "n_threads_batch", self.n_threads_batch or threads, 1, MAX_THREADS
        )
        params.n_rs_seq = self._number("n_recurrent_snapshots", self.n_recurrent_snapshots, 0)
        params.embeddings = self.embeddings
        params.pooling_type = choice("pooling", self.pooling, POOLING)
        params.attention_type = choice("attention", self.attention, ATTENTION)
        params.flash_attn_type = choice("flash_attention", self.flash_attention, FLASH_ATTENTION)
        params.type_k = choice("type_k", self.type_k, CACHE_TYPES)
        params.type_v = choice("type_v", self.type_v, CACHE_TYPES)
        params.kv_unified = self.kv_unified
        params.swa_full = self.swa_full
        params.offload_kqv = self.offload_kqv
        params.op_offload = self.op_offload
        params.no_perf = self.no_perf
        params.rope_scaling_type = choice("rope_scaling", self.rope_scaling, ROPE_SCALING)
        params.rope_freq_base = self.rope_freq_base
        params.rope_freq_scale = self.rope_freq_scale
        params.yarn_ext_factor = self.yarn_ext_factor
        params.yarn_attn_factor = self.yarn_attn_factor
        params.yarn_beta_fast = self.yarn_beta_fast
        params.yarn_beta_slow = self.yarn_beta_slow
        params.yarn_orig_ctx = self._number("yarn_orig_ctx", self.yarn_orig_ctx, 0)
        return params

    def _number(self, name: str, value: int, low: int, high: int = MAX_COUNT) -> int:
        if not low <= value <= high:
            raise ContextInitError(f"{name}={value}: choose a number from {low} to {high}.")
        return value
