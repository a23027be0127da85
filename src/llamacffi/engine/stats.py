"""What an engine is doing, and has done, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters", "EngineStats"]


@dataclass
class Counters:
    """Totals since the engine was made; changed in its thread only.

    Attributes:
        requests: Taken in.
        finished: Ended by themselves.
        failed: Ended by an error.
        cancelled: Ended because nobody wanted them any more.
        expired: Ended by their timeout.
        preempted: Sent back into the line for want of memory; they go on later.
        prompt_tokens: In the prompts of requests that began.
        cached_tokens: Of these, found in the memory.
        completion_tokens: Generated.
        embedded_tokens: Tokens of texts that were turned into vectors.
        steps: Decodes.
        computed_tokens: Tokens in all decodes.
    """

    requests: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    preempted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    embedded_tokens: int = 0
    steps: int = 0
    computed_tokens: int = 0


@dataclass(frozen=True)
class EngineStats:
    """A moment of an engine.

    Attributes:
        n_parallel: Most requests that are computed at a time.
        n_running: Requests that are being computed.
        n_waiting: Requests that wait for a place.
        n_queue_max: Most that may wait.
        n_ctx: Tokens that the memory holds.
        n_remembered: Tokens of all sequences, those of finished requests among them; what
            sequences share counts for each.
        n_idle_sequences: Places in the memory that no running request has; they remember.
        totals: Counted since the engine was made.
    """

    n_parallel: int
    n_running: int
    n_waiting: int
    n_queue_max: int
    n_ctx: int
    n_remembered: int
    n_idle_sequences: int
    totals: Counters
