"""Chains of samplers in tests: what comes out of fixed logits, and of the real model."""

from __future__ import annotations

from typing import Any

from llamacffi import Context, Llama, SamplerChain

PROMPT = "Once upon a time there was a"


def picks(chain: SamplerChain, output: Context, count: int = 12) -> list[int]:
    """What comes out of the same logits, one after the other."""
    return [chain.sample(output) for _ in range(count)]


def text_of(llama: Llama, **parameters: Any) -> str:
    """How the real model goes on after PROMPT, with these parameters of a completion."""
    parameters = {"max_tokens": 6, **parameters}
    result = llama.create_completion(PROMPT, **parameters)
    assert isinstance(result, dict)
    return str(result["choices"][0]["text"])
