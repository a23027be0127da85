"""The one-line door: a model and a context in one object, with llama-cpp-python's interface."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llamacffi.adapter import Adapter
from llamacffi.backends import AUTO
from llamacffi.chat_completing import ChatCompleting
from llamacffi.context import Context
from llamacffi.context_params import (
    ATTENTION,
    CACHE_TYPES,
    POOLING,
    ROPE_SCALING,
    ContextParams,
)
from llamacffi.embedding import Embedder
from llamacffi.embedding_front import ContextSizes, Embedding
from llamacffi.errors import ParameterError, UnsupportedError
from llamacffi.fitting import MARGIN, N_CTX_MIN, Fit
from llamacffi.generation import Drafter, Generation, Step, run, run_drafted
from llamacffi.job import Job
from llamacffi.load_progress import Progress
from llamacffi.model import Model
from llamacffi.model_params import SPLIT_MODES, MetadataValue, number_or_auto
from llamacffi.opening import open_fitted
from llamacffi.prompt_cache import BasePromptCache
from llamacffi.rpc.remote import RPC_TIMEOUT_SECONDS
from llamacffi.sampling.seeds import RANDOM_SEED
from llamacffi.templates.choice import TemplateChoice
from llamacffi.turn import Turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Llama"]


def _name(parameter: str, value: int | str | None, choices: Mapping[str, int], default: str) -> str:
    """Accept llama-cpp-python's numbers beside our names."""
    if value is None:
        return default
    if isinstance(value, str):
        return value
    for name, number in choices.items():
        if number == value:
            return name
    raise ParameterError(f"{parameter}={value}: choose one of {', '.join(choices)}.")


class Llama(ChatCompleting, Embedding):
    """A model ready to complete text and to chat; takes llama-cpp-python's arguments.

    Differences to llama-cpp-python: unknown arguments are an error; as many layers as fit go to
    the device by default; flash attention is chosen by llama.cpp unless set; nothing is logged to
    standard error unless `verbose`; numbers that name a choice can be given as names, too.

    Args:
        model_path: A file, an alias ("smollm2"), or `hf:owner/repo/file.gguf`.
        backend: "auto", or a backend's name; see `llamacffi.backends()`.
        n_gpu_layers: Layers on the device; "auto" for as many as fit beside the context, -1 for
            all, or an error if they do not fit.
        split_mode: How several GPUs share the model: "none", "layer", "row", "tensor".
        main_gpu: The GPU for split_mode "none".
        tensor_split: The proportion of the model for each GPU.
        devices: The devices to use, by name, e.g. ["Vulkan0"]; None for all GPUs.
        rpc_servers: Workers on other machines, a list of "host:port"; see `Model`.
        rpc_timeout: Seconds without an answer after which a worker counts as lost.
        vocab_only: Load no weights.
        use_mmap: Map the file into memory.
        use_mlock: Keep the model from being swapped out.
        kv_overrides: GGUF metadata to change while loading.
        seed: Of the random numbers, where a call gives none.
        n_ctx: Context length in tokens; 0 for the model's own, "auto" for as much of that as the
            free memory has room for.
        n_batch: Most tokens in one decode.
        n_ubatch: Most tokens computed at once.
        n_threads: Threads for generation; None for one per physical core.
        n_threads_batch: Threads for prompts; None for n_threads.
        rope_scaling_type: See `Context`.
        pooling_type: See `Context`.
        attention_type: See `Context`.
        rope_freq_base: See `Context`.
        rope_freq_scale: See `Context`.
        yarn_ext_factor: See `Context`.
        yarn_attn_factor: See `Context`.
        yarn_beta_fast: See `Context`.
        yarn_beta_slow: See `Context`.
        yarn_orig_ctx: See `Context`.
        logits_all: Keep room for the logits of every token of a batch.
        embedding: Size the context for `embed`, `create_embedding` and `rerank`: for many texts at
            once, and with an encoder n_batch and n_ubatch are n_ctx.
        offload_kqv: Keep the cache on the device.
        flash_attn: True, False, or None for llama.cpp's choice.
        op_offload: Let the device do large operations of host layers.
        swa_full: Keep all of a sliding window's cache.
        no_perf: Leave the performance counters at zero.
        last_n_tokens_size: How many tokens the penalties look at.
        lora_path: A LoRA adapter.
        lora_scale: Its scale.
        type_k: Type of cached keys.
        type_v: Type of cached values.
        spm_infill: Put the suffix before the prefix when filling in.
        chat_format: The template for conversations: a registered name ("chatml"), Jinja text, a
            file of such, or a `Template`. None for a plugin's that matches the model, else the one
            in the model's file.
        verbose: Log llama.cpp's messages to standard error.
        draft_model: Proposes tokens that are then checked together, which is faster where it is
            often right and changes nothing else: `PromptLookup()`, `DraftModel(...)`, or a
            callable that gets the tokens so far (int32 array) and returns token ids.
        prompt_cache: Keeps prompts that are to be computed again later: `PromptCache()` in memory,
            `DiskPromptCache()` for other processes, too.
        n_ctx_min: The shortest that n_ctx="auto" comes to, if the model was trained for as much.
        fit_margin: MiB that "auto" leaves free on each device.
        progress: True for a progress bar while fetching and loading, or a callable.

    Raises: As `Model` and `Context`.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        backend: str = AUTO,
        n_gpu_layers: int | str = AUTO,
        split_mode: int | str = "layer",
        main_gpu: int = 0,
        tensor_split: Sequence[float] | None = None,
        devices: Sequence[str] | None = None,
        rpc_servers: str | Sequence[str] | None = None,
        rpc_timeout: float = RPC_TIMEOUT_SECONDS,
        vocab_only: bool = False,
        use_mmap: bool = True,
        use_mlock: bool = False,
        kv_overrides: Mapping[str, MetadataValue] | None = None,
        seed: int = RANDOM_SEED,
        n_ctx: int | str = 512,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        rope_scaling_type: int | str | None = None,
        pooling_type: int | str | None = None,
        attention_type: int | str | None = None,
        rope_freq_base: float = 0.0,
        rope_freq_scale: float = 0.0,
        yarn_ext_factor: float = -1.0,
        yarn_attn_factor: float = -1.0,
        yarn_beta_fast: float = -1.0,
        yarn_beta_slow: float = -1.0,
        yarn_orig_ctx: int = 0,
        logits_all: bool = False,
        embedding: bool = False,
        offload_kqv: bool = True,
        flash_attn: bool | None = None,
        op_offload: bool | None = None,
        swa_full: bool | None = None,
        no_perf: bool = True,
        last_n_tokens_size: int = 64,
        lora_path: str | os.PathLike[str] | None = None,
        lora_scale: float = 1.0,
        type_k: int | str | None = None,
        type_v: int | str | None = None,
        spm_infill: bool = False,
        chat_format: TemplateChoice = None,
        draft_model: Drafter | None = None,
        prompt_cache: BasePromptCache | None = None,
        n_ctx_min: int = N_CTX_MIN,
        fit_margin: int = MARGIN,
        verbose: bool = False,
        progress: Progress = False,
    ) -> None:
        if verbose:
            _log_to_stderr()
        self.model_path = str(model_path)
        self.verbose = verbose
        self._seed = seed
        self._last_n = last_n_tokens_size
        self._spm_infill = spm_infill
        self._embedding = embedding
        self._drafter = draft_model
        self._chat_format = chat_format
        self._turn = Turn()
        load_modes = {(True, False): "auto", (True, True): "mmap+mlock", (False, True): "mlock"}
        shared: dict[str, Any] = {
            "kv_unified": embedding,
            "n_threads": n_threads,
            "n_threads_batch": n_threads_batch,
            "embeddings": embedding,
            "pooling": _name("pooling_type", pooling_type, POOLING, "unspecified"),
            "attention": _name("attention_type", attention_type, ATTENTION, "unspecified"),
            "flash_attention": {None: "auto", True: "on", False: "off"}[flash_attn],
            "type_k": _name("type_k", type_k, CACHE_TYPES, "f16"),
            "type_v": _name("type_v", type_v, CACHE_TYPES, "f16"),
            "swa_full": bool(swa_full),
            "offload_kqv": offload_kqv,
            "op_offload": op_offload is not False,
            "no_perf": no_perf,
            "rope_scaling": _name(
                "rope_scaling_type", rope_scaling_type, ROPE_SCALING, "unspecified"
            ),
            "rope_freq_base": rope_freq_base,
            "rope_freq_scale": rope_freq_scale,
            "yarn_ext_factor": yarn_ext_factor,
            "yarn_attn_factor": yarn_attn_factor,
            "yarn_beta_fast": yarn_beta_fast,
            "yarn_beta_slow": yarn_beta_slow,
            "yarn_orig_ctx": yarn_orig_ctx,
        }

        def load(fit: Fit) -> Model:
            return Model(
                model_path,
                backend=backend,
                n_gpu_layers=n_gpu_layers,
                split_mode=_name("split_mode", split_mode, SPLIT_MODES, "layer"),
                main_gpu=main_gpu,
                tensor_split=tensor_split,
                devices=devices,
                rpc_servers=rpc_servers,
                rpc_timeout=rpc_timeout,
                vocab_only=vocab_only,
                load_mode=load_modes.get((use_mmap, use_mlock), "none"),
                metadata_overrides=kv_overrides,
                fit=fit,
                progress=progress,
            )

        def make(model: Model) -> Context | None:
            if vocab_only:
                return None
            if embedding:
                sizes = ContextSizes.for_embedding(model, length, n_batch, n_ubatch)
            else:
                batch = n_batch if length in (0, AUTO) else min(n_batch, int(length))
                outputs = batch if logits_all else None
                sizes = ContextSizes(length, batch, n_ubatch, n_outputs_max=outputs)
            return Context(
                model, **vars(sizes), n_ctx_min=n_ctx_min, fit_margin=fit_margin, **shared
            )

        length = number_or_auto("n_ctx", n_ctx)
        planned = ContextParams(n_ctx=length, n_batch=n_batch, n_ubatch=n_ubatch, **shared)
        fit = Fit(planned, fit_margin, n_ctx_min)
        self.model, self._context = open_fitted(load, make, fit)
        if self._context is None:
            return
        try:
            if embedding and self._context.generates:
                self._context.set_embeddings(False)  # only while embedding
            self.set_cache(prompt_cache)
            if lora_path is not None:
                self._context.set_adapters([(Adapter(self.model, lora_path), lora_scale)])
        except BaseException:
            self.model.close()
            raise

    # -- running ------------------------------------------------------------------------------

    def _do(self, job: Job, stream: bool) -> Any:
        if stream:
            return self._turn.take(job.stream(self._run))
        for _ in self._turn.take(job.finish(self._run)):
            pass
        return job.result()

    def _run(self, generation: Generation) -> Iterator[Step]:
        if self._drafter is None:
            return run(self.context, generation)
        return run_drafted(self.context, generation, self._drafter)

    def _embedder(self) -> Embedder:
        context = self.context
        if not self._embedding:
            raise UnsupportedError(
                "This Llama was made without embedding=True, which sizes its context for "
                "embeddings. Make it with embedding=True."
            )
        return Embedder(context)

    def _run_packs(self, texts: list[list[int]]) -> list[NDArray[np.float32]]:
        embedder = self._embedder()
        found: dict[int, NDArray[np.float32]] = {}

        def steps() -> Iterator[bool]:
            for pack in embedder.packs(texts):
                found.update(zip(pack.indexes, embedder.compute(pack), strict=True))
                yield True

        for _ in self._turn.take(steps()):  # nobody decodes between a pack and its results
            pass
        return [found[index] for index in range(len(texts))]

    # -- facts and lifetime -------------------------------------------------------------------

    @property
    def context(self) -> Context:
        """The context that everything is decoded in.

        Raises:
            UnsupportedError: The model was loaded with vocab_only=True.
        """
        if self._context is None:
            raise UnsupportedError(
                f"{self.model} was loaded with vocab_only=True and cannot compute. Load it without."
            )
        return self._context

    @property
    def metadata(self) -> dict[str, str]:
        """The GGUF metadata as text."""
        return self.model.metadata

    def n_ctx(self) -> int:
        """Context length in tokens."""
        return self.context.n_ctx

    def n_embd(self) -> int:
        """Width of the embeddings."""
        return self.model.n_embd

    def n_vocab(self) -> int:
        """Number of tokens in the vocabulary."""
        return self.model.vocab.n_tokens

    def token_bos(self) -> int:
        """Beginning-of-sentence token; -1 if the model has none."""
        return -1 if (token := self.model.vocab.bos) is None else token

    def token_eos(self) -> int:
        """End-of-sentence token; -1 if the model has none."""
        return -1 if (token := self.model.vocab.eos) is None else token

    def token_nl(self) -> int:
        """New-line token; -1 if the model has none."""
        return -1 if (token := self.model.vocab.nl) is None else token

    def set_seed(self, seed: int) -> None:
        """Set the seed for calls that give none."""
        self._seed = seed

    def reset(self) -> None:
        """Forget what was decoded; the next prompt is computed from its start."""
        self.context.memory.clear()

    def set_cache(self, cache: BasePromptCache | None) -> None:
        """Keep prompts in this cache from now on; None for none.

        Raises:
            ParameterError: Not a cache of this package.
        """
        if cache is not None and not isinstance(cache, BasePromptCache):
            raise ParameterError(
                f"{cache!r:.80} is no prompt cache of llamacffi. Use PromptCache() or "
                "DiskPromptCache()."
            )
        self.context.prompt_cache = cache

    def save_state(self) -> bytes:
        """Save what is remembered of the last text: bytes for `load_state`; see `Context`."""
        return self.context.save_state(0)

    def load_state(self, state: bytes) -> None:
        """Remember what was saved; a prompt that begins with it is computed from there on.

        Raises:
            StateError: The bytes are damaged, or belong to another model or other parameters.
        """
        self.context.load_state(state, 0)

    def close(self) -> None:
        """Free context and model. Safe to call twice."""
        self.model.close()

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Llama({self.model!r})"

    # -- tokens -------------------------------------------------------------------------------

    def tokenize(self, text: bytes | str, add_bos: bool = True, special: bool = False) -> list[int]:
        """Turn text into token ids; `special` reads control tokens' spelling as such tokens."""
        return self.model.vocab.tokenize(text, add_bos, special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """Turn token ids into bytes; after `prev_tokens`, a leading space is kept."""
        vocab = self.model.vocab
        if prev_tokens:
            return b"".join(vocab.token_to_piece(token, special) for token in tokens)
        return vocab.detokenize_bytes(tokens, unparse_special=special)


def _log_to_stderr() -> None:
    log = logging.getLogger("llamacffi")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, logging.StreamHandler) for handler in log.handlers):
        log.addHandler(logging.StreamHandler())
