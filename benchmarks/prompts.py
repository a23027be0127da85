"""Prompts as token ids of SmolLM2's vocabulary, so that every subject gets the very same ones."""

from __future__ import annotations

# Beginnings of sentences after which greedy generation goes on: the first for 1000 tokens and
# more, the others for the few tokens that the time to the first one takes.
SHORT = (
    (6403, 1980, 253, 655, 665, 436),  # Once upon a time there was
    (24960, 3514, 288, 260, 2342, 284),  # Tom went to the market and
    (46484, 2397, 281, 253, 1165, 2291),  # Anna lives in a small house
    (12615, 36411, 418, 582, 3822, 5027),  # Water boils at one hundred degrees
    (66, 1034, 3631, 5249, 429, 260, 12610),  # Rivers carry rain from the hills
    (73, 15955, 339, 1012, 253, 1863, 563),  # Yesterday I read a book about
    (40833, 284, 7680, 359, 1062),  # Dogs and cats are both
    (38634, 314, 260, 3575),  # Paris is the capital
)

FIRST_TEXT_TOKEN = 1000  # below: control tokens, single bytes
N_VOCAB = 49152


def arbitrary(n_tokens: int, seed: int = 1) -> tuple[int, ...]:
    """The same arbitrary tokens every time, as llama-bench's prompts are arbitrary."""
    tokens = []
    for _ in range(n_tokens):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        tokens.append(FIRST_TEXT_TOKEN + (seed >> 33) % (N_VOCAB - FIRST_TEXT_TOKEN))
    return tuple(tokens)
