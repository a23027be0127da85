"""A request in the engine: one generation, what was said about it, and how far it is."""

from __future__ import annotations

import itertools
import logging
import time
from dataclasses import dataclass
from typing import Protocol

from llamacffi.errors import ParameterError
from llamacffi.generation import Generation, Step

__all__ = ["DEFAULT_OPTIONS", "Options", "Recipient", "Request"]

log = logging.getLogger(__name__)

# Who waits this long counts as one priority higher.
AGING_SECONDS = 10.0
HIGHEST_PRIORITY = 1000

_numbers = itertools.count()


@dataclass(frozen=True)
class Options:
    """What can be said of a request beside what is to be generated.

    Attributes:
        priority: Those with a higher one go first; 0 is usual, negative ones stand back.
        timeout: Seconds from asking to the last token; None for any number.
        n_prompt_max: Most tokens of its prompt; None for as many as fit.
    """

    priority: int = 0
    timeout: float | None = None
    n_prompt_max: int | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise ParameterError(f"timeout={self.timeout}: give seconds above 0, or None.")
        if self.n_prompt_max is not None and self.n_prompt_max < 1:
            raise ParameterError(f"n_prompt_max={self.n_prompt_max}: choose 1 or more, or None.")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise ParameterError(f"priority={self.priority!r}: give a whole number.")
        if abs(self.priority) > HIGHEST_PRIORITY:
            raise ParameterError(
                f"priority={self.priority}: choose {-HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}."
            )


DEFAULT_OPTIONS = Options()


class Recipient(Protocol):
    """Who gets the steps of requests; called in the engine's thread, and never waits."""

    def put(self, index: int, item: Step | BaseException | None) -> None:
        """A step of the request with this index; None when it is over, or what ended it."""


class Request:
    """One generation on its way through the engine; changed in the engine's thread only.

    Args:
        generation: What makes its text.
        options: What was said about it.
        recipient: Who gets its steps.
        index: By which the recipient knows it.

    Attributes:
        tokens: Prompt and answer so far; those from n_past on are to be computed.
        rank: By which it is served, the smallest first.
        sequence: Where it is computed; None as long as it has none.
        n_past: How many of its tokens the memory holds.
        behind: Another request, and how many tokens that one is to compute before this one begins.
        begun: Whether it has had a sequence.
        cancelled: Set from any thread; it is then dropped before the next step.
    """

    def __init__(
        self, generation: Generation, options: Options, recipient: Recipient, index: int
    ) -> None:
        self.generation = generation
        self.tokens = generation.tokens  # the list itself: it grows
        self._n_prompt = len(generation.prompt)
        self.options = options
        self._recipient: Recipient | None = recipient
        self._index = index
        self.arrived = time.monotonic()
        self.rank = (self.arrived - AGING_SECONDS * options.priority, next(_numbers))
        self.sequence: int | None = None
        self.n_past = 0
        self.behind: tuple[Request, int] | None = None
        self.begun = False
        self.cancelled = False

    @property
    def n_missing(self) -> int:
        """How many tokens are to be computed until the next one can be picked."""
        return len(self.tokens) - self.n_past

    @property
    def answering(self) -> bool:
        """Whether its prompt is computed, and each step brings a token."""
        return self._n_prompt <= self.n_past == len(self.tokens) - 1

    @property
    def scoring(self) -> bool:
        """Whether the probabilities of its prompt's tokens are wanted, and not all there."""
        return self.generation.wants_prompt_scores and not self.generation.n_generated

    @property
    def deadline(self) -> float | None:
        """When it must be over, by time.monotonic()."""
        timeout = self.options.timeout
        return None if timeout is None else self.arrived + timeout

    def deliver(self, item: Step | BaseException | None) -> None:
        """Hand a step over, or the end."""
        if self._recipient is None:
            return
        try:
            self._recipient.put(self._index, item)
        except Exception:
            log.exception("A request of the engine is dropped: its recipient failed.")
            self._recipient = None
            self.cancelled = True
