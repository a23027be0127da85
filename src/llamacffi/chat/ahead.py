"""Computing the beginning of the user's next turn while the user reads the answer."""

from __future__ import annotations

import dataclasses

from llamacffi.chat.seats import Seats
from llamacffi.templates import Prompt
from llamacffi.vocab import Vocab

__all__ = ["CONTENT", "beginning_of_turn", "compute_ahead"]

CONTENT = "?"  # of a message that nobody has written yet
MOST_TOKENS = 32  # more would not be the end of one turn and the beginning of the next


def beginning_of_turn(prompt: Prompt, vocab: Vocab) -> list[int]:
    """The tokens before the content of the last message, which is CONTENT."""
    places = [place for place, part in enumerate(prompt.parts) if part == (CONTENT, False)]
    if not places:
        return []
    before = dataclasses.replace(prompt, parts=prompt.parts[: places[-1]])
    tokens = before.tokens(vocab)
    # What is no control token may become another one together with the content's beginning.
    return tokens if tokens and vocab.is_control(tokens[-1]) else tokens[:-1]


def compute_ahead(seats: Seats, owner: object, tokens: list[int]) -> None:
    """Decode what the owner's sequence lacks of these tokens, if that is little."""
    context = seats.context

    def compute() -> None:
        sequence = seats.sequence_of(owner)
        if sequence is None:
            return
        memory = context.memory
        kept = memory.common_prefix(tokens, sequence)
        missing = tokens[kept:]
        goes_on = memory.position_max(sequence) + 1 == kept
        if goes_on and 0 < len(missing) <= MOST_TOKENS and len(tokens) < context.n_ctx_seq:
            context.decode_tokens(missing, sequence=sequence, position=kept, outputs="none")

    seats.in_turn(compute)
