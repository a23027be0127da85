"""A request in the engine: one generation, what was said about it, and how far it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from llamacffi.errors import ParameterError
from llamacffi.generation import Generation, Step

__all__ = ["DEFAULT_OPTIONS", "Options", "Recipient", "Request"]


@dataclass(frozen=True)
class Options:
    """What can be said of a request beside what is to be generated.

    Attributes:
        priority: Those with a higher one go first; 0 is usual, negative ones stand back.
        timeout: Seconds from asking to the last token; None for any number.
    """

    priority: int = 0
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise ParameterError(f"timeout={self.timeout}: give seconds above 0, or None.")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise ParameterError(f"priority={self.priority!r}: give a whole number.")


DEFAULT_OPTIONS = Options()


class Recipient(Protocol):
    """Who gets the steps of requests; called in the engine's thread, and never waits."""

    def put(self, index: int, item: Step | Exception | None) -> None:
        """A step of the request with this index; None when it is over, or what ended it."""


class Request:
    """One generation on its way through the engine; changed in the engine's thread only.

    Args:
        generation: What makes its text.
        options: What was said about it.
        recipient: Who gets its steps.
        index: By which the recipient knows it.

    Attributes:
        sequence: Where it is computed; None as long as it has no place.
        n_past: How many of its tokens the memory holds.
        cancelled: Set from any thread; it is then dropped before the next step.
    """

    def __init__(
        self, generation: Generation, options: Options, recipient: Recipient, index: int
    ) -> None:
        self.generation = generation
        self.options = options
        self._recipient = recipient
        self._index = index
        self.arrived = time.monotonic()
        self.sequence: int | None = None
        self.n_past = 0
        self.cancelled = False

    @property
    def tokens(self) -> list[int]:
        """Prompt and answer so far; those from n_past on are to be computed."""
        return self.generation.tokens

    @property
    def n_missing(self) -> int:
        """How many tokens are to be computed until the next one can be picked."""
        return len(self.tokens) - self.n_past

    @property
    def answering(self) -> bool:
        """Whether its prompt is computed, and each step brings a token."""
        return self.sequence is not None and self.n_missing == 1 and self.generation.n_generated > 0

    @property
    def deadline(self) -> float | None:
        """When it must be over, by time.monotonic()."""
        timeout = self.options.timeout
        return None if timeout is None else self.arrived + timeout

    def deliver(self, item: Step | Exception | None) -> None:
        """Hand a step over, or the end."""
        self._recipient.put(self._index, item)
