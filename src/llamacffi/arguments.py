"""What callers of `Llama` write, and what it means: OpenAI's and llama-cpp-python's arguments."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llamacffi.context import Context
from llamacffi.errors import ParameterError, UnsupportedError
from llamacffi.logprob_shapes import chat_logprobs, completion_logprobs
from llamacffi.sampling.params import DEFAULTS, SamplingParams
from llamacffi.sampling.seeds import RANDOM_SEED

__all__ = [
    "bias_of",
    "check_tail_free",
    "chosen_seed",
    "combined",
    "criterion_of",
    "listed",
    "logprob_style",
    "reseeded",
    "stops_of",
    "wants_usage",
]


def check_tail_free(tfs_z: float) -> None:
    """Refuse an argument that llama-cpp-python still has."""
    if tfs_z != 1.0:
        raise UnsupportedError("llama.cpp has no tail-free sampling any more: leave tfs_z at 1.")


def stops_of(stop: Any) -> Iterable[Any]:
    """`stop` as a list."""
    return [stop] if isinstance(stop, str | bytes | int) else (stop or ())


def chosen_seed(seed: int | None, sampling: SamplingParams | None, default: int) -> int | None:
    """The call's own seed, else that of its parameters, else the constructor's."""
    for given in (seed, None if sampling is None else sampling.seed, default):
        if given is not None:
            return None if given in (-1, RANDOM_SEED) else given
    return None


def logprob_style(
    logprobs: int | bool | None, top_logprobs: int
) -> tuple[int | None, Callable[..., dict[str, Any]] | None]:
    """How many alternatives are wanted, and in which shape."""
    if top_logprobs and logprobs is not True:
        raise ParameterError(f"top_logprobs={top_logprobs} needs logprobs=True.")
    if logprobs is None or logprobs is False:
        return None, None
    count = top_logprobs if logprobs is True else logprobs
    if count < 0:
        raise ParameterError(f"{count} alternatives were asked for: choose 0 or more, or None.")
    return count, chat_logprobs if logprobs is True else completion_logprobs


def combined(sampling: SamplingParams | None, **arguments: Any) -> SamplingParams:
    """The parameters, with those arguments in place that are not at their defaults."""
    if sampling is None:
        return SamplingParams(**arguments)
    given = {k: value for k, value in arguments.items() if value != getattr(DEFAULTS, k)}
    return dataclasses.replace(sampling, **given)


def reseeded(params: SamplingParams, index: int) -> SamplingParams:
    """The parameters for one of several answers."""
    if params.seed is None or not index:
        return params
    return dataclasses.replace(params, seed=(params.seed + index) % RANDOM_SEED)


def bias_of(bias: Mapping[Any, float] | None) -> dict[int, float]:
    """Keys as numbers: JSON has them as text."""
    try:
        return {
            int(token) if isinstance(token, str) else operator.index(token): value
            for token, value in (bias or {}).items()
        }
    except (AttributeError, TypeError, ValueError):
        raise ParameterError(f"logit_bias={bias!r}: map token ids to numbers or False.") from None


def listed(processors: Any) -> list[Callable[..., Any]]:
    """None, a processor or several of them as a list."""
    if processors is None:
        return []
    return list(processors) if isinstance(processors, list | tuple) else [processors]


def criterion_of(
    check: Callable[..., bool] | None,
) -> Callable[[Sequence[int], Context, int], bool] | None:
    """llama-cpp-python's stopping criterion as one of ours."""
    if check is None:
        return None

    def criterion(tokens: Sequence[int], context: Context, index: int) -> bool:
        import numpy as np

        return bool(check(np.array(tokens, dtype=np.intc), context.logits(index)))

    return criterion


def wants_usage(stream_options: Mapping[str, Any] | None) -> bool:
    """Whether the last piece of a stream is to have the usage."""
    return bool((stream_options or {}).get("include_usage"))
