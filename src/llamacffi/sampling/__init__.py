"""Sampling: from logits to a token."""

from llamacffi.sampling.chain import LogitsProcessor, SamplerChain
from llamacffi.sampling.grammar import Grammar
from llamacffi.sampling.params import SamplingParams
from llamacffi.sampling.registry import samplers
from llamacffi.sampling.sampler import NativeNode, Sampler

__all__ = [
    "Grammar",
    "LogitsProcessor",
    "NativeNode",
    "Sampler",
    "SamplerChain",
    "SamplingParams",
    "samplers",
]
