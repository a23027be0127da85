"""What the model thinks of a text that is there: log probabilities of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llamacffi.errors import UnsupportedError
from llamacffi.logprobs import TokenLogprobs, token_logprobs

if TYPE_CHECKING:
    from llamacffi.context import Context

__all__ = ["score_prompt"]


def score_prompt(
    context: Context, tokens: Sequence[int], count: int, sequence: int = 0
) -> list[TokenLogprobs]:
    """Decode a text and see how probable each of its tokens was.

    The logits are used chunk by chunk, as many as the context keeps (n_outputs_max): there is
    never more than one chunk of them.

    Args:
        context: Where to decode it; what the sequence held before is forgotten.
        tokens: The text.
        count: How many alternatives to report for each token.
        sequence: The sequence id.

    Returns:
        An entry for each token but the first, which nothing stands before.

    Raises:
        UnsupportedError: The model has an encoder, which reads the whole text at once.
    """
    if context.model.has_encoder:
        raise UnsupportedError(f"{context.model} reads a prompt as a whole and cannot score it.")
    context.memory.remove(sequence)
    scores: list[TokenLogprobs] = []
    size = min(context.n_outputs_max, context.n_batch)
    try:
        for first in range(0, len(tokens), size):
            chunk = tokens[first : first + size]
            context.decode_tokens(chunk, sequence=sequence, position=first, outputs="all")
            following = tokens[first + 1 : first + 1 + len(chunk)]
            scores += [
                token_logprobs(context.logits(row), token, count)
                for row, token in enumerate(following)
            ]
    except BaseException:
        context.memory.remove(sequence)
        raise
    return scores
