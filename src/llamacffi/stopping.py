"""Stop strings in a stream of text: the earliest match ends it, and none of it leaks out."""

from __future__ import annotations

from collections.abc import Iterable

from llamacffi.errors import ParameterError

__all__ = ["StopStrings"]


class StopStrings:
    """Watches text that arrives in pieces for the first of several strings.

    Text that may turn out to be the start of a stop string is held back until that is settled.
    The result does not depend on how the text was cut into pieces: it ends where the earliest
    match in the whole text starts.

    Args:
        stops: The strings; empty ones are refused.
    """

    def __init__(self, stops: Iterable[object] = ()) -> None:
        given = tuple(stops)
        self._stops = tuple(stop for stop in given if isinstance(stop, str) and stop)
        if len(self._stops) != len(given):
            raise ParameterError(f"stop={list(given)!r}: give non-empty strings, or token ids.")
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Add text; returns what can be shown. After a match, `matched` names the string."""
        if not self._stops:
            return text
        if self.matched is not None or not text:
            return ""
        buffer = self._held + text
        found = [(at, stop) for stop in self._stops if (at := buffer.find(stop)) >= 0]
        first, stop = min(found, key=lambda match: match[0], default=(len(buffer), None))
        # A longer string that began earlier may still complete: then it is the earliest.
        settled = next(
            (at for at in range(self._first_doubt(buffer), first) if self._may_match(buffer[at:])),
            first,
        )
        if settled == first and stop is not None:
            self.matched = stop
            self._held = ""
            return buffer[:first]
        self._held = buffer[settled:]
        return buffer[:settled]

    def finish(self) -> str:
        """End the text; returns what was held back, cut at a match that was waiting."""
        held, self._held = self._held, ""
        if self.matched is not None:
            return ""
        found = [(at, stop) for stop in self._stops if (at := held.find(stop)) >= 0]
        if not found:
            return held
        first, self.matched = min(found, key=lambda match: match[0])
        return held[:first]

    def _first_doubt(self, buffer: str) -> int:
        longest = max(len(stop) for stop in self._stops)
        return max(0, len(buffer) - longest + 1)

    def _may_match(self, tail: str) -> bool:
        return any(len(stop) > len(tail) and stop.startswith(tail) for stop in self._stops)
