"""Embeddings in the engine: texts of many callers in one decode, between the steps of answers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from llamacffi.call import current_call
from llamacffi.context import Context
from llamacffi.embedding import Embedder
from llamacffi.engine.loop import Loop
from llamacffi.errors import DeadlineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["VectorDesk"]

# So many texts are looked at to find some that go well together.
WINDOW = 256


class _Entry:
    """A text that waits for its vector."""

    def __init__(self, tokens: list[int], news: queue.SimpleQueue[Exception | None]) -> None:
        self.tokens = tokens
        self.vector: NDArray[np.float32] | None = None
        self._news = news

    def done(self, error: Exception | None) -> None:
        """Tell who waits."""
        self._news.put(error)


class VectorDesk:
    """Takes texts from any thread, and computes them pack by pack in the engine's.

    Args:
        make_context: Makes the context for vectors, when the first text comes.
        loop: Does it, between two steps.
    """

    def __init__(self, make_context: Callable[[], Context], loop: Loop) -> None:
        self._make_context = make_context
        self._loop = loop
        self._lock = threading.Lock()
        self._made: Embedder | None = None
        self._waiting: list[_Entry] = []
        self._asked = False  # an errand is on its way: one pack, however many ask, before a step

    @property
    def embedder(self) -> Embedder:
        """What computes; its context is made when it is first asked for.

        Raises:
            ContextInitError: It does not fit.
        """
        with self._lock:
            if self._made is None or self._made.context.broken:
                self._made = Embedder(self._make_context())
            return self._made

    @property
    def busy(self) -> bool:
        """Whether texts wait."""
        return bool(self._waiting)

    def run(
        self, texts: list[list[int]], timeout: float | None = None
    ) -> list[NDArray[np.float32]]:
        """Compute texts; what `Embedder.run` returns.

        Args:
            texts: Their tokens.
            timeout: Seconds until all must be computed; None for any number.

        Raises:
            CancelledError: The current call was cancelled.
            DeadlineError: They were not computed in time.
            ClosedError: The engine was closed.
            Exception: What a pack with one of the texts ended with.
        """
        _ = self.embedder  # if its context cannot be made, that is the caller's error
        news: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        entries = [_Entry(tokens, news) for tokens in texts]
        with self._lock:
            self._waiting += entries
        self._ask()
        try:
            self._wait(news, len(entries), timeout)
        finally:
            self._forget(entries)
        return [entry.vector for entry in entries if entry.vector is not None]

    def close(self) -> None:
        """Free the context; nothing is computed any more."""
        with self._lock:
            made, self._made = self._made, None
        if made is not None:
            made.context.close()

    def _wait(
        self, news: queue.SimpleQueue[Exception | None], count: int, timeout: float | None
    ) -> None:
        call = current_call()
        until = None if timeout is None else time.monotonic() + timeout
        with nullcontext() if call is None else call.interrupting(lambda: news.put(None)):
            for _ in range(count):
                if self._loop.stopped is not None:
                    raise self._loop.refusal()
                try:
                    error = news.get(timeout=None if until is None else until - time.monotonic())
                except (queue.Empty, ValueError):  # the time may be over already
                    raise DeadlineError(
                        f"The texts were not embedded after {timeout} s. Give it more time, or "
                        "fewer texts."
                    ) from None
                if error is not None:
                    raise error
                if call is not None:
                    call.check()

    def _ask(self) -> None:
        with self._lock:
            if self._asked or not self._waiting:
                return
            self._asked = True
        self._loop.run_errand(self._serve)

    def _forget(self, entries: list[_Entry]) -> None:
        ours = {id(entry) for entry in entries}
        with self._lock:
            self._waiting = [entry for entry in self._waiting if id(entry) not in ours]

    # -- in the engine's thread ---------------------------------------------------------------

    def _serve(self) -> None:
        """Compute the pack that the text which waits longest is in."""
        with self._lock:
            self._asked = False
            window = self._waiting[:WINDOW]
        if not window:
            return
        entries, error = window, None
        try:
            if self._loop.stopped is not None:
                raise self._loop.refusal()
            embedder = self.embedder
            packs = embedder.packs([entry.tokens for entry in window])
            pack = next(pack for pack in packs if 0 in pack.indexes)
            entries = [window[index] for index in pack.indexes]
            for entry, vector in zip(entries, embedder.compute(pack), strict=True):
                entry.vector = vector
            self._loop.counters.embedded_tokens += pack.n_tokens
        except Exception as failure:
            error = failure
        self._forget(entries)
        for entry in entries:
            entry.done(error)
        self._ask()
