"""What happens when a conversation outgrows its context: the stated policies."""

from __future__ import annotations

import copy
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from llamacffi.context import Context
from llamacffi.errors import ContextFullError, ParameterError
from llamacffi.templates.messages import text_of

__all__ = [
    "Overflow",
    "Window",
    "check_overflow",
    "cut_half",
    "follow",
    "shifts",
    "system_length",
    "turn_starts",
]

Messages = list[dict[str, Any]]
Overflow = Literal["drop", "shift", "raise"] | Callable[[Messages], str]
LOW_WATER = 0.5  # of the room: what is left after dropping, so that it need not be done each turn
# How many tokens must agree for a stretch to count as the same one: longer ones are looked for
# first, since a short one may be found where it does not belong.
FOUND_TOKENS = (64, 32, 16, 8)

_Rendered = TypeVar("_Rendered", bound=Sized)


@dataclass
class Window:
    """The part of a history that the model gets to see.

    Attributes:
        start: Index of the first message after the system message that it sees.
        summary: What stands for those before.
        moved_at: How many messages there were when it moved last.
    """

    start: int = 0
    summary: str = ""
    moved_at: int = 0

    def seen(self, messages: Messages) -> Messages:
        """The messages to render."""
        return _seen(messages, self.start, self.summary)

    def fit(
        self,
        messages: Messages,
        render: Callable[[Messages], _Rendered],
        room: int,
        overflow: Overflow,
    ) -> _Rendered:
        """Move on until the messages fit; nothing has moved if that fails.

        Args:
            messages: The whole history; the last one is to be answered.
            render: Makes the prompt of messages, as long as it has tokens.
            room: How many there may be.
            overflow: The policy.

        Returns:
            The prompt of what is seen.

        Raises:
            ContextFullError: They do not fit, and the policy is to raise; or not even the last
                turn does.
            Exception: What a callable raised that was to summarise.
        """
        found = render(self.seen(messages))
        if len(found) <= room:
            return found
        if overflow == "raise":
            raise ContextFullError(
                f"The conversation has {len(found)} tokens; there is room for {room}. Remove "
                "messages, use a larger n_ctx, or another overflow policy than 'raise'."
            )
        starts = [start for start in turn_starts(messages) if start > self.start]

        def is_low(start: int) -> bool:
            return len(render(_seen(messages, start, self.summary))) <= room * LOW_WATER

        if starts:  # a later start is never longer: the last turn is taken in any case
            start, summary = starts[bisect_left(starts[:-1], True, key=is_low)], self.summary
            found = render(_seen(messages, start, summary))
        if len(found) > room:
            raise ContextFullError(
                f"The last turn alone, with the system message, has {len(found)} tokens; there is "
                f"room for {room}. Shorten it, or use a larger n_ctx."
            )
        if callable(overflow):
            summary = self._summarised(messages, start, overflow)
            found = render(_seen(messages, start, summary))
            if len(found) > room:
                raise ContextFullError(
                    f"With the summary of {len(summary)} characters, the conversation has "
                    f"{len(found)} tokens; there is room for {room}. Let the overflow callable "
                    "return a shorter one."
                )
        self.start, self.summary, self.moved_at = start, summary, len(messages)
        return found

    def _summarised(
        self, messages: Messages, start: int, summarise: Callable[[Messages], str]
    ) -> str:
        dropped = messages[max(self.start, system_length(messages)) : start]
        earlier = [{"role": "system", "content": self.summary}] if self.summary else []
        summary: Any = summarise([*earlier, *copy.deepcopy(dropped)])
        if not isinstance(summary, str):
            raise ParameterError(
                f"The overflow callable returned {summary!r:.80}: it must return a summary, a str."
            )
        return summary


def _seen(messages: Messages, start: int, summary: str) -> Messages:
    n_system = system_length(messages)
    system, rest = messages[:n_system], messages[max(start, n_system) :]
    if not summary:
        return [*system, *rest]
    text = "\n\n".join([*(text_of(message.get("content")) for message in system), summary])
    return [{"role": "system", "content": text}, *rest]


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


# -- shifting -----------------------------------------------------------------------------------


def shifts(context: Context) -> bool:
    """Whether a stretch in the middle can be forgotten.

    A recurrent state says that it can shift, and means the positions only.
    """
    model = context.model
    return not (model.is_recurrent or model.is_hybrid) and context.memory.can_shift


def follow(context: Context, sequence: int, tokens: Sequence[int]) -> None:
    """Let the memory drop a stretch that a new prompt lacks, by shifting what comes behind it."""
    memory = context.memory
    held = memory.tokens(sequence)
    if len(held) != memory.position_max(sequence) + 1:
        return
    start = memory.common_prefix(tokens, sequence)
    for length in FOUND_TOKENS:
        wanted = tokens[start : start + length]
        place = _find(held, wanted, start + 1) if len(wanted) == length else None
        if place is not None:
            memory.cut(sequence, start, place)
            return


def cut_half(context: Context, sequence: int, held: list[int], n_keep: int) -> None:
    """Forget the older half of what a sequence holds, behind the first n_keep, and shift the rest.

    Args:
        context: The context; `shifts` must be true of it.
        sequence: The sequence.
        held: The tokens in it, which are changed alike.
        n_keep: Tokens at the start that stay.
    """
    kept = min(n_keep, len(held) - 1)
    end = kept + max(1, (len(held) - kept) // 2)
    context.memory.cut(sequence, kept, end)
    del held[kept:end]


def _find(held: Sequence[int], wanted: Sequence[int], start: int) -> int | None:
    """Where `wanted` begins in `held`, from a place on: the search of bytes is never quadratic."""
    text, piece = array("i", held).tobytes(), array("i", wanted).tobytes()
    size = array("i").itemsize
    at = text.find(piece, start * size)
    while at > 0 and at % size:  # between two tokens
        at = text.find(piece, at + 1)
    return None if at < 0 else at // size
