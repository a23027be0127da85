"""The one-line door: a model and a context in one object, with llama-cpp-python's interface."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llamacffi.adapter import Adapter
from llamacffi.backends import AUTO
from llamacffi.completion import CompletionShape
from llamacffi.context import Context
from llamacffi.context_params import ATTENTION, CACHE_TYPES, POOLING, ROPE_SCALING
from llamacffi.errors import ParameterError, UnsupportedError
from llamacffi.generation import Generation, Step, check_fits, run
from llamacffi.model import Model, Progress
from llamacffi.model_params import SPLIT_MODES, MetadataValue
from llamacffi.sampling.builtin import RANDOM_SEED
from llamacffi.sampling.params import SamplingParams
from llamacffi.turn import Turn

__all__ = ["Llama"]

Completion = dict[str, Any]


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


class Llama:
    """A model ready to complete text; takes llama-cpp-python's arguments.

    Differences to llama-cpp-python: unknown arguments are an error; all layers go to the device
    by default; flash attention is chosen by llama.cpp unless set; nothing is logged to standard
    error unless `verbose`; numbers that name a choice can be given as names, too.

    Args:
        model_path: A file, an alias ("smollm2"), or `hf:owner/repo/file.gguf`.
        backend: "auto", or a backend's name; see `llamacffi.backends()`.
        n_gpu_layers: Layers on the device; -1 for all.
        split_mode: How several GPUs share the model: "none", "layer", "row", "tensor".
        main_gpu: The GPU for split_mode "none".
        tensor_split: The proportion of the model for each GPU.
        vocab_only: Load no weights.
        use_mmap: Map the file into memory.
        use_mlock: Keep the model from being swapped out.
        kv_overrides: GGUF metadata to change while loading.
        seed: Of the random numbers, where a call gives none.
        n_ctx: Context length in tokens; 0 for the model's own.
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
        embedding: Compute embeddings.
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
        verbose: Log llama.cpp's messages to standard error.
        progress: True for a progress bar while fetching and loading, or a callable.

    Raises: As `Model` and `Context`.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        backend: str = AUTO,
        n_gpu_layers: int = -1,
        split_mode: int | str = "layer",
        main_gpu: int = 0,
        tensor_split: Sequence[float] | None = None,
        vocab_only: bool = False,
        use_mmap: bool = True,
        use_mlock: bool = False,
        kv_overrides: Mapping[str, MetadataValue] | None = None,
        seed: int = RANDOM_SEED,
        n_ctx: int = 512,
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
        self._turn = Turn()
        load_modes = {(True, False): "auto", (True, True): "mmap+mlock", (False, True): "mlock"}
        self.model = Model(
            model_path,
            backend=backend,
            n_gpu_layers=n_gpu_layers,
            split_mode=_name("split_mode", split_mode, SPLIT_MODES, "layer"),
            main_gpu=main_gpu,
            tensor_split=tensor_split,
            vocab_only=vocab_only,
            load_mode=load_modes.get((use_mmap, use_mlock), "none"),
            metadata_overrides=kv_overrides,
            progress=progress,
        )
        self._context: Context | None = None
        if vocab_only:
            return
        try:
            self._context = Context(
                self.model,
                n_ctx=n_ctx,
                n_batch=min(n_batch, n_ctx) if n_ctx else n_batch,
                n_ubatch=n_ubatch,
                n_outputs_max=n_batch if logits_all or embedding else None,
                n_threads=n_threads,
                n_threads_batch=n_threads_batch,
                embeddings=embedding,
                pooling=_name("pooling_type", pooling_type, POOLING, "unspecified"),
                attention=_name("attention_type", attention_type, ATTENTION, "unspecified"),
                flash_attention={None: "auto", True: "on", False: "off"}[flash_attn],
                type_k=_name("type_k", type_k, CACHE_TYPES, "f16"),
                type_v=_name("type_v", type_v, CACHE_TYPES, "f16"),
                swa_full=bool(swa_full),
                offload_kqv=offload_kqv,
                op_offload=op_offload is not False,
                no_perf=no_perf,
                rope_scaling=_name(
                    "rope_scaling_type", rope_scaling_type, ROPE_SCALING, "unspecified"
                ),
                rope_freq_base=rope_freq_base,
                rope_freq_scale=rope_freq_scale,
                yarn_ext_factor=yarn_ext_factor,
                yarn_attn_factor=yarn_attn_factor,
                yarn_beta_fast=yarn_beta_fast,
                yarn_beta_slow=yarn_beta_slow,
                yarn_orig_ctx=yarn_orig_ctx,
            )
            if lora_path is not None:
                self._context.set_adapters([(Adapter(self.model, lora_path), lora_scale)])
        except BaseException:
            self.model.close()
            raise

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

    # -- completion -----------------------------------------------------------------------------

    def create_completion(
        self,
        prompt: str | bytes | Sequence[int],
        suffix: str | None = None,
        max_tokens: int | None = 16,
        temperature: float = 0.8,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | Sequence[str] | None = None,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        top_k: int = 40,
        stream: bool = False,
        seed: int | None = None,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        stopping_criteria: Callable[..., bool] | None = None,
        logits_processor: Any = None,
        grammar: Any = None,
        logit_bias: Mapping[int, float] | None = None,
    ) -> Any:
        """Complete a text.

        Args:
            prompt: Text (bytes are taken as UTF-8), in which control tokens may be spelled out; or
                token ids.
            suffix: Text that follows what is to be filled in; for models with infill tokens.
            max_tokens: Most tokens to generate; None, 0 or less for as many as fit.
            temperature: 0 for the most probable token each time.
            top_p: See `SamplingParams`, as for the other sampling arguments.
            min_p: See `SamplingParams`.
            typical_p: See `SamplingParams`.
            logprobs: How many alternatives to report with each token; None for none at all.
            echo: Put the prompt in front of the text.
            stop: Strings that end the text; the earliest match counts, and is left out.
            frequency_penalty: See `SamplingParams`.
            presence_penalty: See `SamplingParams`.
            repeat_penalty: See `SamplingParams`.
            top_k: See `SamplingParams`.
            stream: Return an iterator over pieces instead of the whole.
            seed: Of the random numbers; None for the constructor's.
            tfs_z: Must be 1: llama.cpp has no tail-free sampling any more.
            mirostat_mode: See `SamplingParams`.
            mirostat_tau: See `SamplingParams`.
            mirostat_eta: See `SamplingParams`.
            model: The model's name in the result.
            stopping_criteria: `(input_ids, logits) -> bool`, called after each token.
            logits_processor: `(input_ids, scores)`, or a list of such; see `Sampler`.
            grammar: GBNF rules that the text must follow, as text.
            logit_bias: Token id to a number added to its logit.

        Returns:
            A dictionary in OpenAI's shape (`choices[0]["text"]`, `finish_reason`, `usage`), or an
            iterator of such with the text in pieces.

        Raises:
            ContextFullError: The prompt does not fit.
            EmptyInputError: The prompt has no tokens.
            ParameterError: An argument out of its range.
            CancelledError: The stream was superseded by another call, or cancelled.
            ClosedError: The model was closed.
        """
        if tfs_z != 1.0:
            raise UnsupportedError(
                "llama.cpp has no tail-free sampling any more: leave tfs_z at 1."
            )
        if logprobs is not None and logprobs < 0:
            raise ParameterError(f"logprobs={logprobs}: choose 0 or more, or None.")
        if echo and logprobs is not None:
            raise UnsupportedError(
                "echo with logprobs, which scores the prompt, is not available. Use one of them."
            )
        context = self.context
        tokens = self._prompt_tokens(prompt, suffix)
        check_fits(context, tokens)  # now, not with the first piece of a stream
        params = SamplingParams(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            typical_p=typical_p,
            repeat_penalty=repeat_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            penalty_last_n=self._last_n,
            mirostat_mode=mirostat_mode,
            mirostat_tau=mirostat_tau,
            mirostat_eta=mirostat_eta,
            logit_bias={int(token): value for token, value in (logit_bias or {}).items()},
            grammar=getattr(grammar, "_grammar", grammar),
            processors=_listed(logits_processor),
            seed=self._seed_for(seed),
        )
        generation = Generation(
            self.model.vocab,
            params.chain(self.model),
            tokens,
            max_tokens=max_tokens if max_tokens and max_tokens > 0 else context.n_ctx_seq,
            stop=[stop] if isinstance(stop, str) else (stop or ()),
            logprobs=logprobs,
            criteria=_criteria(stopping_criteria),
        )
        before = ""
        if echo or logprobs is not None:
            before = self.model.vocab.detokenize(tokens)
            if isinstance(prompt, str | bytes):
                before = prompt if isinstance(prompt, str) else prompt.decode("utf-8", "replace")
        shape = CompletionShape(model or self.model_path, self.model.vocab, len(before))
        steps = self._turn.take(run(context, generation))
        if stream:
            return _stream(shape, steps, before if echo else "")
        finished = list(steps)
        text = (before if echo else "") + "".join(step.text for step in finished)
        return shape.whole(text, generation.finish_reason, finished, generation.usage)

    __call__ = create_completion

    def _prompt_tokens(self, prompt: str | bytes | Sequence[int], suffix: str | None) -> list[int]:
        vocab = self.model.vocab
        if suffix is not None:
            return self._infill_tokens(prompt, suffix)
        if not isinstance(prompt, str | bytes):
            return [operator.index(token) for token in prompt]
        tokens = vocab.tokenize(prompt, add_special=True, parse_special=True)
        if len(tokens) > 1 and tokens[0] == tokens[1] == vocab.bos:
            del tokens[0]  # the prompt spelled out the BOS that the tokenizer adds anyway
        return tokens

    def _infill_tokens(self, prompt: str | bytes | Sequence[int], suffix: str) -> list[int]:
        vocab = self.model.vocab
        before, after, middle = vocab.fim_prefix, vocab.fim_suffix, vocab.fim_middle
        if before is None or after is None or middle is None:
            raise UnsupportedError(
                f"{self.model} has no fill-in-the-middle tokens, which `suffix` needs. Use a model "
                "trained to fill in, or leave suffix out."
            )
        if isinstance(prompt, str | bytes):
            prompt = vocab.tokenize(prompt, add_special=False)
        parts = [[before, *prompt], [after, *vocab.tokenize(suffix, add_special=False)]]
        if self._spm_infill:
            parts.reverse()
        bos = [vocab.bos] if vocab.add_bos and vocab.bos is not None else []
        return [*bos, *parts[0], *parts[1], middle]

    def _seed_for(self, seed: int | None) -> int | None:
        if seed is not None:
            return seed
        return None if self._seed == RANDOM_SEED else self._seed


def _listed(processors: Any) -> list[Callable[..., Any]]:
    if processors is None:
        return []
    return list(processors) if isinstance(processors, list | tuple) else [processors]


def _criteria(check: Callable[..., bool] | None) -> Callable[[Sequence[int], Context], bool] | None:
    if check is None:
        return None

    def criterion(tokens: Sequence[int], context: Context) -> bool:
        import numpy as np

        return bool(check(np.array(tokens, dtype=np.intc), context.logits()))

    return criterion


def _stream(shape: CompletionShape, steps: Iterator[Step], before: str) -> Iterator[Completion]:
    if before:
        yield shape.chunk(before, None, [])
    waiting: list[Step] = []
    for step in steps:
        waiting.append(step)
        if step.text:
            yield shape.chunk(step.text, None, waiting)
            waiting = []
        if step.finish_reason is not None:
            yield shape.chunk("", step.finish_reason, waiting)


def _log_to_stderr() -> None:
    log = logging.getLogger("llamacffi")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, logging.StreamHandler) for handler in log.handlers):
        log.addHandler(logging.StreamHandler())
