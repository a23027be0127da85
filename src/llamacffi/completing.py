"""Completing texts: from arguments to a job. The front end that inherits it runs the job."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llamacffi.arguments import (
    bias_of,
    check_tail_free,
    chosen_seed,
    combined,
    criterion_of,
    listed,
    logprob_style,
    reseeded,
    stops_of,
    wants_usage,
)
from llamacffi.completion import CompletionChoice, completion_head
from llamacffi.context import Context
from llamacffi.errors import ParameterError, UnsupportedError
from llamacffi.generation import Generation, check_fits
from llamacffi.job import Job
from llamacffi.logprobs import TokenLogprobs
from llamacffi.model import Model
from llamacffi.sampling.params import SamplingParams
from llamacffi.sampling.seeds import RANDOM_SEED
from llamacffi.sampling.structure import schema_of_response_format

__all__ = ["Completing"]


class Completing(ABC):
    """What completes texts: a front end inherits it, and says how a job is run.

    Attributes:
        model: The model.
        model_path: Its name in results.
    """

    model: Model
    model_path: str
    _seed: int = RANDOM_SEED
    _last_n: int = 64
    _spm_infill: bool = False

    @property
    @abstractmethod
    def context(self) -> Context:
        """The context that everything is decoded in."""

    @abstractmethod
    def _do(self, job: Job, stream: bool) -> Any:
        """Run a job; returns its result, or an iterator over the pieces of its stream."""

    def create_completion(
        self,
        prompt: str | bytes | Sequence[int],
        suffix: str | None = None,
        max_tokens: int | None = 16,
        temperature: float = 0.8,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        logprobs: int | bool | None = None,
        echo: bool = False,
        stop: str | int | Sequence[str | int] | None = None,
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
        logit_bias: Mapping[Any, float] | None = None,
        *,
        response_format: Mapping[str, Any] | None = None,
        sampling: SamplingParams | None = None,
        min_tokens: int = 0,
        ignore_eos: bool = False,
        n: int = 1,
        best_of: int | None = None,
        top_logprobs: int = 0,
        stream_options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Complete a text.

        Args:
            prompt: Text (bytes are taken as UTF-8), in which control tokens may be spelled out; or
                token ids.
            suffix: Text that follows what is to be filled in; for models with infill tokens.
            max_tokens: Most tokens to generate; None, 0 or less for as many as fit. With echo and
                logprobs, 0 generates none: the prompt is scored.
            temperature: 0 for the most probable token each time.
            top_p: See `SamplingParams`, as for the other sampling arguments.
            min_p: See `SamplingParams`.
            typical_p: See `SamplingParams`.
            logprobs: How many alternatives to report with each token, in the shape of OpenAI's
                text completions; True for the shape of its chat completions, with `top_logprobs`
                alternatives; None or False for none at all.
            echo: Put the prompt in front of the text; with logprobs, score it as well.
            stop: Strings or token ids that end the text; the earliest counts, and is left out.
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
            grammar: GBNF rules that the text must follow: text, a path or a `Grammar`.
            logit_bias: Token id to a number added to its logit; False for never.
            response_format: OpenAI's: `{"type": "json_object"}`, or `{"type": "json_schema",
                "json_schema": {"schema": ...}}`.
            sampling: Sampling parameters, also those that have no argument here. An argument that
                is not at its default takes precedence.
            min_tokens: Least tokens to generate.
            ignore_eos: Never end before max_tokens of the model's own accord.
            n: How many completions; each has its own seed, `seed` plus its index.
            best_of: Generate as many, and return the n with the highest mean log probability.
            top_logprobs: With logprobs=True, how many alternatives to report with each token.
            stream_options: OpenAI's: `{"include_usage": True}` for a last piece with the usage.

        Returns:
            A dictionary in OpenAI's shape (`choices[0]["text"]`, `finish_reason`, `usage`), or an
            iterator of such with the text in pieces.

        Raises:
            ContextFullError: The prompt does not fit.
            EmptyInputError: The prompt has no tokens.
            ParameterError: An argument out of its range.
            GrammarError: The grammar does not parse; SchemaError for a schema.
            CancelledError: The stream was superseded by another call, or cancelled.
            ClosedError: The model was closed.
        """
        check_tail_free(tfs_z)
        count, style = logprob_style(logprobs, top_logprobs)
        total = n if best_of is None else best_of
        if not 1 <= n <= total:
            raise ParameterError(
                f"n={n}, best_of={best_of}: choose 1 or more, best_of not below n."
            )
        if stream and total > n:
            raise ParameterError("best_of cannot be streamed: which are best shows at the end.")
        context = self.context
        tokens = self._prompt_tokens(prompt, suffix)
        scored = echo and count is not None
        limit = max_tokens if max_tokens and max_tokens > 0 else context.n_ctx_seq
        if scored and max_tokens == 0:
            limit = 0
        if scored and suffix is not None:
            raise UnsupportedError("A prompt with a suffix cannot be scored: leave out echo.")
        check_fits(context, tokens, limit)  # now, not with the first piece of a stream
        params = combined(
            sampling,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            typical_p=typical_p,
            repeat_penalty=repeat_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            penalty_last_n=self._last_n if sampling is None else sampling.penalty_last_n,
            mirostat_mode=mirostat_mode,
            mirostat_tau=mirostat_tau,
            mirostat_eta=mirostat_eta,
            logit_bias=bias_of(logit_bias),
            grammar=getattr(grammar, "_grammar", grammar),  # llama-cpp-python's class
            json_schema=schema_of_response_format(response_format),
            processors=tuple(listed(logits_processor)),
            seed=chosen_seed(seed, sampling, self._seed),
        )
        before = ""
        if echo or count is not None:
            before = self.model.vocab.detokenize(tokens)
            if isinstance(prompt, str | bytes):
                before = prompt if isinstance(prompt, str) else prompt.decode("utf-8", "replace")
        generations = [
            Generation(
                self.model.vocab,
                reseeded(params, index).chain(self.model),
                tokens,
                max_tokens=limit,
                min_tokens=min_tokens,
                stop=stops_of(stop),
                ignore_eos=ignore_eos,
                logprobs=0 if count is None and total > n else count,  # to choose the best by
                prompt_logprobs=scored and index == 0,
                criteria=criterion_of(stopping_criteria),
            )
            for index in range(total)
        ]

        def prompt_entries() -> list[TokenLogprobs | int]:
            return [tokens[0], *generations[0].prompt_scores] if scored else []

        head = completion_head(model or self.model_path)
        job = Job(
            [
                CompletionChoice(
                    index, self.model.vocab, generation, before, echo, prompt_entries, style
                )
                for index, generation in enumerate(generations)
            ],
            head,
            head,
            n_best=n,
            with_usage=wants_usage(stream_options),
        )
        return self._do(job, stream)

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
