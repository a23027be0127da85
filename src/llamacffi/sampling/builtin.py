"""llama.cpp's own samplers, registered through the same hook as anyone's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llamacffi.errors import ParameterError, UnsupportedError
from llamacffi.hookspecs import hookimpl
from llamacffi.sampling.grammar import grammar, json_schema
from llamacffi.sampling.sampler import NativeNode, Sampler
from llamacffi.sampling.seeds import native_seed
from llamacffi.vocab import Vocab, check_tokens

__all__ = ["DRY_BREAKERS", "register_samplers"]

INFINITY = math.inf
DRY_BREAKERS = ("\n", ":", '"', "*")


def _number(name: str, value: float, low: float = -INFINITY, high: float = INFINITY) -> float:
    if not (low <= value <= high) or math.isnan(value) or math.isinf(value):
        raise ParameterError(f"{name}={value}: choose a finite number from {low} to {high}.")
    return value


def _count(name: str, value: int, low: int = 0, high: int = 2**31 - 1) -> int:
    return int(_number(name, value, low, high))


def _node(vocab: Vocab, function: str, *arguments: Any, n_keep: int = 0) -> NativeNode:
    with vocab._handle.lock:
        _ = vocab._pointer  # refuses a closed model
        return NativeNode(vocab, getattr(vocab._lib, function)(*arguments), n_keep)


def greedy(vocab: Vocab) -> NativeNode:
    """Take the most probable token (llama_sampler_init_greedy)."""
    return _node(vocab, "llama_sampler_init_greedy", n_keep=1)


def dist(vocab: Vocab, seed: int | None = None) -> NativeNode:
    """Draw from the distribution; seed None for a random one (llama_sampler_init_dist)."""
    return _node(vocab, "llama_sampler_init_dist", native_seed(seed))


def top_k(vocab: Vocab, k: int = 40) -> NativeNode:
    """Keep the k most probable tokens; 0 keeps all (llama_sampler_init_top_k)."""
    k = _count("k", k)
    return _node(vocab, "llama_sampler_init_top_k", k, n_keep=k)


def top_p(vocab: Vocab, p: float = 0.95, min_keep: int = 1) -> NativeNode:
    """Keep the most probable tokens that make up p (llama_sampler_init_top_p)."""
    return _node(
        vocab, "llama_sampler_init_top_p", _number("p", p, 0, 1), _count("min_keep", min_keep)
    )


def min_p(vocab: Vocab, p: float = 0.05, min_keep: int = 1) -> NativeNode:
    """Keep tokens at least p times as probable as the best (llama_sampler_init_min_p)."""
    return _node(
        vocab, "llama_sampler_init_min_p", _number("p", p, 0, 1), _count("min_keep", min_keep)
    )


def typical(vocab: Vocab, p: float = 1.0, min_keep: int = 1) -> NativeNode:
    """Locally typical sampling (llama_sampler_init_typical)."""
    return _node(
        vocab, "llama_sampler_init_typical", _number("p", p, 0, 1), _count("min_keep", min_keep)
    )


def temperature(
    vocab: Vocab, temperature: float = 0.8, delta: float = 0.0, exponent: float = 1.0
) -> NativeNode:
    """Divide the logits; delta above 0 makes it dynamic (llama_sampler_init_temp_ext)."""
    value = _number("temperature", temperature, 0)
    return _node(
        vocab,
        "llama_sampler_init_temp_ext",
        value if value > 1e-30 else 0.0,  # logits divided by less leave the range of float32
        _number("delta", delta, 0),
        _number("exponent", exponent),
    )


def penalties(
    vocab: Vocab,
    last_n: int = 64,
    repeat: float = 1.0,
    frequency: float = 0.0,
    presence: float = 0.0,
) -> NativeNode:
    """Penalise tokens of the last `last_n`; -1 for all (llama_sampler_init_penalties)."""
    if repeat <= 0:
        raise ParameterError(f"repeat={repeat}: choose a number above 0; 1 is off.")
    n = 2**20 if last_n < 0 else _count("last_n", last_n, 0, 2**24)
    return _node(
        vocab,
        "llama_sampler_init_penalties",
        vocab.n_tokens,
        n,
        _number("repeat", repeat),
        _number("frequency", frequency),
        _number("presence", presence),
    )


def dry(
    vocab: Vocab,
    multiplier: float = 0.8,
    base: float = 1.75,
    allowed_length: int = 2,
    last_n: int = 1024,
    breakers: Sequence[str] = DRY_BREAKERS,
) -> NativeNode:
    """Penalise repeating passages of the last `last_n`; -1 for all (llama_sampler_init_dry)."""
    if isinstance(breakers, str) or not all(isinstance(text, str) for text in breakers):
        raise ParameterError(f"breakers={breakers!r}: give a list of strings.")
    ffi = vocab._ffi
    texts = [ffi.new("char[]", breaker.encode()) for breaker in breakers]
    return _node(
        vocab,
        "llama_sampler_init_dry",
        vocab._pointer,
        _number("multiplier", multiplier, 0),
        _number("base", base, 1),
        _count("allowed_length", allowed_length, 0, 2**20),
        2**20 if last_n < 0 else _count("last_n", last_n, 0, 2**24),
        ffi.new("char *[]", texts),
        len(texts),
    )


def xtc(
    vocab: Vocab,
    probability: float = 0.5,
    threshold: float = 0.1,
    min_keep: int = 1,
    seed: int | None = None,
) -> NativeNode:
    """Sometimes exclude the most probable tokens (llama_sampler_init_xtc)."""
    return _node(
        vocab,
        "llama_sampler_init_xtc",
        _number("probability", probability, 0, 1),
        _number("threshold", threshold, 0, 1),
        _count("min_keep", min_keep),
        native_seed(seed),
    )


def top_n_sigma(vocab: Vocab, n: float = 1.0) -> NativeNode:
    """Keep logits within n standard deviations of the best (llama_sampler_init_top_n_sigma)."""
    return _node(vocab, "llama_sampler_init_top_n_sigma", _number("n", n))


def mirostat(
    vocab: Vocab, tau: float = 5.0, eta: float = 0.1, m: int = 100, seed: int | None = None
) -> NativeNode:
    """Mirostat 1: hold the surprise near tau; selects (llama_sampler_init_mirostat)."""
    return _node(
        vocab,
        "llama_sampler_init_mirostat",
        vocab.n_tokens,
        native_seed(seed),
        _number("tau", tau, 0),
        _number("eta", eta, 0),
        _count("m", m, 1, 2**20),
    )


def mirostat_v2(
    vocab: Vocab, tau: float = 5.0, eta: float = 0.1, seed: int | None = None
) -> NativeNode:
    """Mirostat 2: the same, simpler; selects (llama_sampler_init_mirostat_v2)."""
    return _node(
        vocab,
        "llama_sampler_init_mirostat_v2",
        native_seed(seed),
        _number("tau", tau, 0),
        _number("eta", eta, 0),
    )


def logit_bias(vocab: Vocab, bias: Mapping[int, float]) -> NativeNode:
    """Add to single logits; -inf bans a token (llama_sampler_init_logit_bias)."""
    check_tokens(list(bias), vocab.n_tokens)
    if any(math.isnan(value) or value == INFINITY for value in bias.values()):
        raise ParameterError("logit_bias: a bias is a number, or -inf to ban a token.")
    rows = [{"token": token, "bias": float(value)} for token, value in bias.items()]
    array = vocab._ffi.new("llama_logit_bias[]", rows)
    return _node(vocab, "llama_sampler_init_logit_bias", vocab.n_tokens, len(rows), array)


def adaptive_p(
    vocab: Vocab, target: float = 0.5, decay: float = 0.9, seed: int | None = None
) -> NativeNode:
    """Pick tokens of about this probability over time; selects (llama_sampler_init_adaptive_p)."""
    return _node(
        vocab,
        "llama_sampler_init_adaptive_p",
        _number("target", target, 0, 1),
        _number("decay", decay, 0, 0.99),
        native_seed(seed),
    )


def infill(vocab: Vocab) -> NativeNode:
    """For filling in, after top_k and top_p: joins tokens that begin alike, and ends in time
    (llama_sampler_init_infill).
    """
    if vocab.eot is None and vocab.eos is None:
        raise UnsupportedError("The infill sampler needs a model with an end token.")
    return _node(vocab, "llama_sampler_init_infill", vocab._pointer)


_PLAIN = (
    greedy, dist, top_k, top_p, min_p, typical, temperature, penalties, dry, xtc, top_n_sigma,
    mirostat, mirostat_v2, adaptive_p, logit_bias, infill,
)  # fmt: skip
_HOLDING = (grammar, json_schema)  # hold a text to what the parameter of the same name describes


@hookimpl
def register_samplers(register: Callable[[Sampler], None]) -> None:
    """Register llama.cpp's samplers."""
    for create in (*_PLAIN, *_HOLDING):
        name, description = create.__name__, (create.__doc__ or "").splitlines()[0]
        register(Sampler(name, create, description, (name,) if create in _HOLDING else ()))
