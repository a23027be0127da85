"""The usual way to sample, declared in one object."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llamacffi.errors import ParameterError
from llamacffi.sampling.builtin import DRY_BREAKERS
from llamacffi.sampling.chain import LogitsProcessor, SamplerChain
from llamacffi.sampling.grammar import Grammar
from llamacffi.sampling.structure import AUTO_ENGINE, FORMATS, hold_to

if TYPE_CHECKING:
    from llamacffi.model import Model

__all__ = ["DEFAULTS", "DEFAULT_ORDER", "SamplingParams"]

# llama.cpp's default order of what shapes the distribution (common_params_sampling::samplers).
DEFAULT_ORDER = (
    "penalties", "dry", "top_n_sigma", "top_k", "typical", "top_p", "min_p", "xtc", "temperature",
)  # fmt: skip
_UPSTREAM_NAMES = {"typ_p": "typical", "typical_p": "typical", "temp": "temperature"}


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of a sampler chain, in llama.cpp's order and with its defaults.

    Attributes:
        temperature: 0 for the most probable token; higher for more variety.
        dynatemp_range: How far the temperature moves with the entropy, up and down; 0 is off.
        dynatemp_exponent: How entropy maps to temperature then.
        top_k: Keep the k most probable tokens; 0 or less for all.
        top_p: Keep the most probable tokens that make up p; 1 for all.
        min_p: Keep tokens at least p times as probable as the best; 0 for all.
        typical_p: Locally typical sampling; 1 is off.
        top_n_sigma: Keep logits within n standard deviations of the best; 0 or less is off.
        xtc_probability: How often the most probable tokens are excluded; 0 is off.
        xtc_threshold: From which probability on they are; above 0.5 is off.
        min_keep: The least number of tokens that typical_p, top_p, min_p and XTC leave.
        repeat_penalty: Divide the logits of tokens seen before; 1 is off.
        frequency_penalty: Subtract per occurrence; 0 is off.
        presence_penalty: Subtract once for tokens seen before; 0 is off.
        penalty_last_n: How many of the last tokens the penalties look at; -1 for all.
        dry_multiplier: How strongly DRY penalises repeated passages; 0 is off.
        dry_base: How fast its penalty grows with the passage's length.
        dry_allowed_length: Tokens that may be repeated without penalty.
        dry_penalty_last_n: How many of the last tokens DRY looks at; -1 for all.
        dry_sequence_breakers: Strings at which a passage ends.
        mirostat_mode: 1 or 2 for Mirostat in place of all above but temperature and penalties.
        mirostat_tau: Its target surprise.
        mirostat_eta: Its learning rate.
        adaptive_target: Pick tokens of about this probability (adaptive-p); negative is off.
        adaptive_decay: How slowly adaptive-p forgets, 0 to 0.99.
        samplers: The order of what shapes the distribution; names as in `DEFAULT_ORDER`, and
            "infill". Those that are not named do nothing, whatever their parameters.
        logit_bias: Token id to a number added to its logit; -inf or False bans it.
        grammar: GBNF rules that the text must follow, as text, a path or a `Grammar`.
        json_schema: A JSON schema that the text must follow: a dictionary, JSON text, a pydantic
            model or a Python type.
        regex: A regular expression that the text must match; needs an engine that can.
        lark: A Lark grammar that the text must follow; needs an engine that can.
        structured_engine: Which sampler holds the text to json_schema, regex or lark: its name, or
            "auto" for the best that is installed.
        processors: Logits processors `(tokens, logits)`, run before everything else.
        seed: Of the random numbers; None for a new one each time.
    """

    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    min_keep: int = 0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: Sequence[str] = DRY_BREAKERS
    mirostat_mode: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    samplers: Sequence[str] = DEFAULT_ORDER
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    grammar: str | os.PathLike[str] | Grammar | None = None
    json_schema: Any = None
    regex: str | None = None
    lark: str | None = None
    structured_engine: str = AUTO_ENGINE
    processors: Sequence[LogitsProcessor] = ()
    seed: int | None = None

    def chain(self, model: Model) -> SamplerChain:
        """Build the chain.

        Raises:
            ParameterError: A parameter out of its range.
            GrammarError: The grammar does not parse.
            SchemaError: The JSON schema has keywords that cannot be enforced.
            InvalidTokenError: logit_bias names a token outside the vocabulary.
            PluginError: No such engine is installed.
        """
        for name, value in vars(self).items():
            if isinstance(value, float) and math.isnan(value):
                raise ParameterError(f"{name}={value}: choose a number.")
        if self.mirostat_mode not in (0, 1, 2):
            raise ParameterError(f"mirostat_mode={self.mirostat_mode}: choose 0, 1 or 2.")
        chain = SamplerChain(model, self.processors)
        if self.logit_bias:
            chain.add(
                "logit_bias",
                bias={token: _bias(value) for token, value in self.logit_bias.items()},
            )
        self._hold(chain)
        greedy = self.temperature <= 0
        wanted = [_UPSTREAM_NAMES.get(name, name) for name in self.samplers]
        unknown = [name for name in wanted if name not in _STEPS]
        if unknown:
            raise ParameterError(f"samplers: {unknown[0]!r} is none of {', '.join(_STEPS)}.")
        if greedy:
            wanted = [name for name in wanted if name in ("penalties", "dry")]
        elif self.mirostat_mode:
            wanted = ["penalties", "dry", "temperature"]
        for name in wanted:
            if self._does_something(name):
                self._add(chain, name, _STEPS[name])
        if greedy:
            return chain.add("greedy")
        if self.mirostat_mode:
            name = "mirostat" if self.mirostat_mode == 1 else "mirostat_v2"
            return self._add(chain, name, _MIROSTAT)
        if self.adaptive_target >= 0:
            return self._add(chain, "adaptive_p", _ADAPTIVE)
        return self._add(chain, "dist", {"seed": "seed"})

    def _hold(self, chain: SamplerChain) -> None:
        if self.grammar is not None:
            chain.add("grammar", grammar=self.grammar)
        for form in FORMATS:
            value = getattr(self, form)
            if value is not None:
                hold_to(chain, form, value, self.structured_engine)

    def _does_something(self, name: str) -> bool:
        """Whether a sampler's parameters are not neutral."""
        penalties = (self.repeat_penalty, self.frequency_penalty, self.presence_penalty)
        neutral = {
            "penalties": penalties == (1, 0, 0),
            "dry": self.dry_multiplier == 0,
            "top_n_sigma": self.top_n_sigma <= 0,
            "top_k": self.top_k <= 0,
            "typical": self.typical_p == 1,
            "top_p": self.top_p == 1,
            "min_p": self.min_p == 0,
            "xtc": self.xtc_probability == 0,
        }
        return not neutral.get(name, False)

    def _add(self, chain: SamplerChain, sampler: str, names: Mapping[str, str]) -> SamplerChain:
        """Add a sampler; names: its parameters, and the fields that have their values."""
        values = {
            parameter: getattr(self, name)
            for parameter, name in names.items()
            if name not in _OPTIONAL or getattr(self, name) != getattr(DEFAULTS, name)
        }
        try:
            return chain.add(sampler, **values)
        except ParameterError as error:
            parameter, _, rest = str(error).partition("=")
            if parameter not in names:
                raise
            raise ParameterError(f"{names[parameter]}={rest}") from None


DEFAULTS = SamplingParams()
_STEPS: dict[str, dict[str, str]] = {
    "penalties": {
        "last_n": "penalty_last_n",
        "repeat": "repeat_penalty",
        "frequency": "frequency_penalty",
        "presence": "presence_penalty",
    },
    "dry": {
        "multiplier": "dry_multiplier",
        "base": "dry_base",
        "allowed_length": "dry_allowed_length",
        "last_n": "dry_penalty_last_n",
        "breakers": "dry_sequence_breakers",
    },
    "top_n_sigma": {"n": "top_n_sigma"},
    "top_k": {"k": "top_k"},
    "typical": {"p": "typical_p", "min_keep": "min_keep"},
    "top_p": {"p": "top_p", "min_keep": "min_keep"},
    "min_p": {"p": "min_p", "min_keep": "min_keep"},
    "xtc": {
        "probability": "xtc_probability",
        "threshold": "xtc_threshold",
        "min_keep": "min_keep",
        "seed": "seed",
    },
    "temperature": {
        "temperature": "temperature",
        "delta": "dynatemp_range",
        "exponent": "dynatemp_exponent",
    },
    "infill": {},
}
_MIROSTAT = {"tau": "mirostat_tau", "eta": "mirostat_eta", "seed": "seed"}
_ADAPTIVE = {"target": "adaptive_target", "decay": "adaptive_decay", "seed": "seed"}
# Left out of a printed chain where they are at their defaults.
_OPTIONAL = ("min_keep", "dynatemp_range", "dynatemp_exponent")


def _bias(value: object) -> float:
    """A bias; False is llama-server's "never"."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        if not value:
            return -math.inf
    elif isinstance(value, int | float) or hasattr(value, "__float__"):
        return float(value)
    raise ParameterError(f"logit_bias has {value!r}: give a number, or False for never.")
