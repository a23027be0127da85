"""Seeds of random numbers: 32 bits, one value of which stands for a random one in llama.cpp."""

from __future__ import annotations

import random

__all__ = ["RANDOM_SEED", "native_seed", "random_seed"]

RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: a new one each time


def random_seed() -> int:
    """A new seed."""
    return random.SystemRandom().randrange(RANDOM_SEED)


def native_seed(seed: int | None) -> int:
    """A seed for llama.cpp: None, -1 and RANDOM_SEED mean a new one; others modulo 2**32 - 1."""
    return random_seed() if seed is None or seed in (-1, RANDOM_SEED) else seed % RANDOM_SEED
