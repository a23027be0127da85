"""The usual way to sample, declared in one object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llamacffi.errors import ParameterError
from llamacffi.sampling.chain import LogitsProcessor, SamplerChain

if TYPE_CHECKING:
    from llamacffi.model import Model

__all__ = ["SamplingParams"]


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of a sampler chain, in llama.cpp's order and with its defaults.

    Attributes:
        temperature: 0 for the most probable token; higher for more variety.
        top_k: Keep the k most probable tokens; 0 or less for all.
        top_p: Keep the most probable tokens that make up p; 1 for all.
        min_p: Keep tokens at least p times as probable as the best; 0 for all.
        typical_p: Locally typical sampling; 1 is off.
        repeat_penalty: Divide the logits of tokens seen before; 1 is off.
        frequency_penalty: Subtract per occurrence; 0 is off.
        presence_penalty: Subtract once for tokens seen before; 0 is off.
        penalty_last_n: How many of the last tokens the penalties look at; -1 for all.
        mirostat_mode: 1 or 2 for Mirostat in place of the truncations above; 0 is off.
        mirostat_tau: Its target surprise.
        mirostat_eta: Its learning rate.
        logit_bias: Token id to a number added to its logit; -inf bans it.
        grammar: GBNF rules that the text must follow; None for any text.
        processors: Logits processors `(tokens, logits)`, run before everything else.
        seed: Of the random numbers; None for a new one each time.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    mirostat_mode: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    grammar: str | None = None
    processors: Sequence[LogitsProcessor] = ()
    seed: int | None = None

    def chain(self, model: Model) -> SamplerChain:
        """Build the chain.

        Raises:
            ParameterError: A parameter out of its range.
            GrammarError: The grammar does not parse.
            InvalidTokenError: logit_bias names a token outside the vocabulary.
        """
        if self.mirostat_mode not in (0, 1, 2):
            raise ParameterError(f"mirostat_mode={self.mirostat_mode}: choose 0, 1 or 2.")
        chain = SamplerChain(model, self.processors)
        if self.logit_bias:
            chain.add("logit_bias", bias=dict(self.logit_bias))
        if self.grammar is not None:
            chain.add("grammar", grammar=self.grammar)
        if (self.repeat_penalty, self.frequency_penalty, self.presence_penalty) != (1.0, 0.0, 0.0):
            chain.add(
                "penalties",
                last_n=self.penalty_last_n,
                repeat=self.repeat_penalty,
                frequency=self.frequency_penalty,
                presence=self.presence_penalty,
            )
        if self.temperature <= 0:
            return chain.add("greedy")
        if self.mirostat_mode:
            chain.add("temperature", temperature=self.temperature)
            name = "mirostat" if self.mirostat_mode == 1 else "mirostat_v2"
            return chain.add(name, tau=self.mirostat_tau, eta=self.mirostat_eta, seed=self.seed)
        if self.top_k > 0:
            chain.add("top_k", k=self.top_k)
        if self.typical_p != 1.0:
            chain.add("typical", p=self.typical_p)
        if self.top_p != 1.0:
            chain.add("top_p", p=self.top_p)
        if self.min_p != 0.0:
            chain.add("min_p", p=self.min_p)
        return chain.add("temperature", temperature=self.temperature).add("dist", seed=self.seed)
