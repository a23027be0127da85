"""The history of a chat: messages, and which of them the model gets to see."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from llamacffi.chat.overflow import Window, system_length, turn_starts
from llamacffi.errors import ParameterError
from llamacffi.templates import Message
from llamacffi.templates.messages import checked_messages, text_of

__all__ = ["History"]


class History:
    """What `ChatSession` inherits its history from.

    Args:
        messages: What it begins with, in OpenAI's shape.
        system: The system message, put in front.

    Raises:
        TemplateError: A message that is none.
    """

    def __init__(self, messages: Iterable[Message] = (), system: str | None = None) -> None:
        self._messages = copied(messages)
        if system is not None:
            self._messages[:0] = copied([{"role": "system", "content": system}])
        self._window = Window()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The history, system message included: a copy, in OpenAI's shape."""
        return copy.deepcopy(self._messages)

    @property
    def system(self) -> str | None:
        """The system message; can be set, also to None."""
        first = self._messages[0] if self._messages else {"role": ""}
        return text_of(first.get("content")) if first["role"] == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        given = [] if text is None else copied([{"role": "system", "content": text}])
        self._end_stream()
        before = 0 if self.system is None else 1
        self._messages[:before] = given
        moved = len(given) - before
        window = self._window
        window.start, window.moved_at = max(0, window.start + moved), window.moved_at + moved

    @property
    def pending_calls(self) -> list[dict[str, Any]]:
        """The tool calls of the last answer that nobody has answered: they wait for you.

        Answer each with `append({"role": "tool", "tool_call_id": ..., "content": ...})`, the last
        one with `ask`.
        """
        answered: set[Any] = set()
        for message in reversed(self._messages):
            if message["role"] != "tool":
                calls = message.get("tool_calls") or ()
                return copy.deepcopy([c for c in calls if c.get("id") not in answered])
            answered.add(message.get("tool_call_id"))
        return []

    def append(self, message: Message) -> None:
        """Add a message without answering it, such as the result of a tool.

        Raises:
            TemplateError: It is no message.
        """
        added = copied([message])
        self._end_stream()
        self._messages += added

    def edit(self, index: int, content: Any) -> None:
        """Give a message another content; what comes after it stays.

        Args:
            index: Its place in `messages`; negative from the end.
            content: A text, or a list of text parts.

        Raises:
            IndexError: There is no such message.
            TemplateError: The content is no text.
        """
        self._end_stream()
        place = self._place(index)
        self._messages[place] = copied([{**self._messages[place], "content": content}])[0]
        self._changed(place)

    def remove(self, index: int) -> None:
        """Remove a message; what comes after it stays.

        Raises:
            IndexError: There is no such message.
        """
        self._end_stream()
        place = self._place(index)
        del self._messages[place]
        self._changed(place)

    def rewind(self, n_turns: int = 1) -> None:
        """Take back the last turns: the user's messages and everything behind them.

        Raises:
            ParameterError: There are not so many.
        """
        self._end_stream()
        starts = turn_starts(self._messages)
        if not 0 <= n_turns <= len(starts):
            raise ParameterError(
                f"{n_turns} turns were to be taken back; there are {len(starts)}. Choose 0 to "
                f"{len(starts)}."
            )
        if n_turns:
            del self._messages[starts[-n_turns] :]
            self._changed(len(self._messages))

    def _place(self, index: int) -> int:
        count = len(self._messages)
        if not -count <= index < count:
            raise IndexError(
                f"Message {index} was asked for; the history has {count}. Choose "
                + (f"{-count} to {count - 1}." if count else "none, or ask something first.")
            )
        return index % count

    def _changed(self, place: int) -> None:
        """What was dropped before may be seen again, if a change makes that another question."""
        hidden = system_length(self._messages) <= place < self._window.start
        if hidden or len(self._messages) < self._window.moved_at:
            self._window = Window()

    def _end_stream(self) -> None:
        """End an answer that is still being read, before the history changes."""


def copied(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The messages, checked; what the caller does with his later changes nothing.

    Raises:
        TemplateError: A message that is none.
    """
    given = messages if isinstance(messages, str | bytes) else list(messages)
    return copy.deepcopy(checked_messages(given)) if given else []
