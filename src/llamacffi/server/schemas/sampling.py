"""The sampling fields of a request, and the sampling parameters that they make."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import Field

from llamacffi.errors import ParameterError
from llamacffi.sampling.params import SamplingParams
from llamacffi.sampling.seeds import RANDOM_SEED
from llamacffi.server.schemas.base import Int32, Items, Number, Request
from llamacffi.server.schemas.shapes import ResponseFormat, StreamOptions

__all__ = ["FIELDS", "SampledRequest"]

_SAME = (
    "temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "typical_p",
    "top_n_sigma", "xtc_probability", "xtc_threshold", "min_keep", "repeat_penalty",
    "frequency_penalty", "presence_penalty", "dry_multiplier", "dry_base", "dry_allowed_length",
    "dry_penalty_last_n", "dry_sequence_breakers", "mirostat_tau", "mirostat_eta",
    "adaptive_target", "adaptive_decay", "samplers", "grammar",
)  # fmt: skip
# The request's name, which is llama-server's, to that of SamplingParams.
FIELDS = {name: name for name in _SAME}
FIELDS |= {"repeat_last_n": "penalty_last_n", "mirostat": "mirostat_mode"}


class SampledRequest(Request):
    """A request for generated text."""

    stream: bool | None = Field(None, description="Send the answer in pieces as it comes.")
    max_tokens: Int32 | None = Field(None, description="Most tokens to generate.")
    n_predict: Int32 | None = Field(None, description="llama-server's name of max_tokens.")
    min_tokens: int | None = Field(None, ge=0, le=2**31 - 1, description="Least tokens.")
    n: int | None = Field(None, ge=1, le=128, description="How many answers.")
    stop: str | Items[str] | None = Field(None, description="What ends the text.")
    seed: int | None = Field(None, ge=-(2**63), le=2**64 - 1, description="-1 for a random one.")
    ignore_eos: bool | None = Field(None, description="Do not end before max_tokens.")
    logit_bias: dict[str, Any] | list[Any] | None = Field(
        None, description="Token id to a number, or false for never; or pairs of them."
    )
    stream_options: StreamOptions | None = Field(
        None, description='{"include_usage": true} for a last chunk with the usage.'
    )
    response_format: ResponseFormat | None = Field(
        None, description="text, json_object or json_schema."
    )
    json_schema: dict[str, Any] | bool | None = Field(
        None, description="A schema that the answer must follow."
    )
    grammar: str | None = Field(None, description="GBNF rules that the answer must follow.")

    temperature: Number | None = Field(None, ge=0, description="0 for the most probable token.")
    dynatemp_range: Number | None = None
    dynatemp_exponent: Number | None = None
    top_k: Int32 | None = None
    top_p: Number | None = None
    min_p: Number | None = None
    typical_p: Number | None = None
    top_n_sigma: Number | None = None
    xtc_probability: Number | None = None
    xtc_threshold: Number | None = None
    min_keep: Int32 | None = None
    repeat_penalty: Number | None = None
    repeat_last_n: Int32 | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    dry_multiplier: Number | None = None
    dry_base: Number | None = None
    dry_allowed_length: Int32 | None = None
    dry_penalty_last_n: Int32 | None = None
    dry_sequence_breakers: Items[str] | None = None
    mirostat: Int32 | None = None
    mirostat_tau: Number | None = None
    mirostat_eta: Number | None = None
    adaptive_target: Number | None = None
    adaptive_decay: Number | None = None
    samplers: Items[str] | None = Field(None, description="Their order.")

    cache_prompt: bool | None = Field(None, description="No effect: prompts are always cached.")
    id_slot: int | None = Field(None, description="No effect: the engine chooses.")
    n_cache_reuse: int | None = Field(None, description="No effect.")
    timings_per_token: bool | None = Field(None, description="No effect.")
    return_progress: bool | None = Field(None, description="No effect.")

    def sampling(self, defaults: SamplingParams) -> SamplingParams:
        """The defaults with what the request names in their place."""
        given = {
            ours: value
            for theirs, ours in FIELDS.items()
            if (value := getattr(self, theirs)) is not None
        }
        if self.seed is not None:
            given["seed"] = None if self.seed < 0 else self.seed % RANDOM_SEED
        if self.logit_bias:
            given["logit_bias"] = self._biases()
        return dataclasses.replace(defaults, **given)

    def limit(self, *names: str, default: int | None, tokens_max: int | None) -> int | None:
        """Most tokens to generate; None for as many as fit.

        Args:
            names: The fields that may say so, the first that does counts.
            default: Where none does.
            tokens_max: The operator's limit.

        Raises:
            ParameterError: None at all, or more than the operator allows.
        """
        for name in names:
            value: int | None = getattr(self, name)
            if value is None:
                continue
            if value == 0:
                raise ParameterError(f"{name}=0: choose 1 or more, or -1 for as many as fit.")
            if tokens_max is not None and value > tokens_max:
                raise ParameterError(
                    f"{name}={value}: this server generates at most {tokens_max} tokens."
                )
            return value if value > 0 else tokens_max
        if default is None or tokens_max is None:
            return default if tokens_max is None else tokens_max
        return min(default, tokens_max)

    def format(self) -> dict[str, Any] | None:
        """The `response_format`, which `json_schema` is another word for."""
        if self.json_schema is None:
            return self.response_format
        if self.response_format is not None:
            raise ParameterError(
                "json_schema: give this or response_format, not both: they say the same."
            )
        return {"type": "json_schema", "json_schema": {"schema": self.json_schema}}

    def _biases(self) -> dict[int, float]:
        given = self.logit_bias or {}
        pairs = given.items() if isinstance(given, dict) else given
        try:
            biases = {int(token): bias for token, bias in pairs}
        except (TypeError, ValueError):
            raise ParameterError(
                "logit_bias: map token ids to numbers or false; POST /tokenize gives ids."
            ) from None
        for token, bias in biases.items():
            if not isinstance(bias, int | float) or bias is True:
                raise ParameterError(
                    f"logit_bias: {token} has {bias!r:.100}: give a number or false."
                )
        return biases
