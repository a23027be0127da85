"""What happens when a conversation outgrows its context: the stated policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llamacffi.context import Context
from llamacffi.errors import ContextFullError, ParameterError
from llamacffi.generation import Generation, Step, prepare
from llamacffi.templates.messages import text_of

__all__ = [
    "Overflow",
    "Window",
    "check_overflow",
    "follow",
    "run_shifting",
    "system_length",
    "turn_starts",
]

Messages = list[dict[str, Any]]
Overflow = Literal["drop", "shift", "raise"] | Callable[[Messages], str]
LOW_WATER = 0.5  # of the room: what is left after dropping, so that it need not be done each turn


@dataclass
class Window:
    """The part of a history that the model gets to see.

    Attributes:
        start: Index of the first message after the system message that it sees.
        summary: What stands for those before.
    """

    start: int = 0
    summary: str = ""

    def seen(self, messages: Messages) -> Messages:
        """The messages to render."""
        n_system = system_length(messages)
        system, rest = messages[:n_system], messages[max(self.start, n_system) :]
        if not self.summary:
            return [*system, *rest]
        text = "\n\n".join([*(text_of(message.get("content")) for message in system), self.summary])
        return [{"role": "system", "content": text}, *rest]

    def fit(
        self,
        messages: Messages,
        size: Callable[[Messages], int],
        room: int,
        overflow: Overflow,
    ) -> None:
        """Move on until the messages fit.

        Args:
            messages: The whole history; the last one is to be answered.
            size: How many tokens messages have when they are rendered.
            room: How many there may be.
            overflow: The policy.

        Raises:
            ContextFullError: They do not fit, and the policy is to raise; or not even the last
                turn does.
            Exception: What a callable raised that was to summarise.
        """
        self.start = min(self.start, len(messages))
        needed = size(self.seen(messages))
        if needed <= room:
            return
        if overflow == "raise":
            raise ContextFullError(
                f"The conversation has {needed} tokens; there is room for {room}. Remove messages, "
                "use a larger n_ctx, or another overflow policy than 'raise'."
            )
        starts = [start for start in turn_starts(messages) if start > self.start]
        first = self.start
        for start in starts:  # turns are few: a binary search would save little
            self.start = start
            if size(self.seen(messages)) <= room * LOW_WATER:
                break
        needed = size(self.seen(messages))
        if needed > room:
            self.start = first
            raise ContextFullError(
                f"The last turn alone has {needed} tokens; there is room for {room}. Shorten it, "
                "or use a larger n_ctx."
            )
        if callable(overflow):
            dropped = messages[max(first, system_length(messages)) : self.start]
            earlier = [{"role": "system", "content": self.summary}] if self.summary else []
            self.summary = overflow([*earlier, *dropped])
            if not isinstance(self.summary, str):
                raise ParameterError(f"The overflow callable returned {self.summary!r:.80}.")
            if size(self.seen(messages)) > room:
                raise ContextFullError(
                    "With the summary, the conversation still does not fit. Shorten the summary."
                )


def check_overflow(overflow: Any) -> Overflow:
    """Refuse what is no policy, with ParameterError."""
    if overflow in ("drop", "shift", "raise") or callable(overflow):
        return overflow  # type: ignore[no-any-return]  # it was compared with the literals
    raise ParameterError(
        f"overflow={overflow!r}: choose 'drop', 'shift', 'raise', or a callable that gets the "
        "dropped messages and returns a summary."
    )


def system_length(messages: Sequence[dict[str, Any]]) -> int:
    """How many messages at the start are the system's."""
    return next(
        (i for i, m in enumerate(messages) if m["role"] not in ("system", "developer")),
        len(messages),
    )


def turn_starts(messages: Sequence[dict[str, Any]]) -> list[int]:
    """Where the turns begin: at the user's messages."""
    return [index for index, message in enumerate(messages) if message["role"] == "user"]


def follow(context: Context, sequence: int, tokens: Sequence[int]) -> None:
    """Let the memory drop a stretch that a new prompt lacks, by shifting what comes behind it."""
    memory = context.memory
    if not memory.can_shift:
        return
    held = memory.tokens(sequence)
    start = memory.common_prefix(tokens, sequence)
    rest = list(tokens[start:])
    for probe in range(min(len(rest), 64), 7, -8):  # a long enough piece is found where it belongs
        place = _find(held, rest[:probe], start + 1)
        if place is not None:
            memory.cut(sequence, start, place)
            return


def run_shifting(
    context: Context, generation: Generation, sequence: int, n_keep: int
) -> Iterator[Step]:
    """As `run`, but where the context is full, its older half is forgotten and the rest shifted.

    Args:
        context: The context; its memory must be able to shift.
        generation: What to generate; it may be longer than the context.
        sequence: Where.
        n_keep: Tokens at the start that are never forgotten, the system message.
    """
    position = prepare(context, generation, sequence)
    while generation.finish_reason is None:
        step = generation.advance(context)
        yield step
        if step.finish_reason is None:
            if position >= context.n_ctx_seq:
                kept = min(n_keep, context.n_ctx_seq // 2)
                n_dropped = max(1, (position - kept) // 2)
                context.memory.cut(sequence, kept, kept + n_dropped)
                position -= n_dropped
            context.decode_token(step.token, position, sequence)
            position += 1


def _find(held: Sequence[int], wanted: Sequence[int], start: int) -> int | None:
    first = wanted[0]
    for place in range(start, len(held) - len(wanted) + 1):
        if held[place] == first and list(held[place : place + len(wanted)]) == list(wanted):
            return place
    return None
