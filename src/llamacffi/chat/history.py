"""The history of a chat: messages, and which of them the model gets to see."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from llamacffi.chat.overflow import Window, turn_starts
from llamacffi.errors import ParameterError
from llamacffi.templates import Message
from llamacffi.templates.messages import checked_messages

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
        given = list(messages)
        if system is not None:
            given.insert(0, {"role": "system", "content": system})
        self._messages = checked_messages(given) if given else []
        self._window = Window()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The history, system message included: a copy, in OpenAI's shape."""
        return copy.deepcopy(self._messages)

    @property
    def system(self) -> str | None:
        """The system message; can be set, also to None."""
        first = self._messages[0] if self._messages else {"role": ""}
        return first["content"] if first["role"] == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        if self.system is not None:
            del self._messages[0]
            self._window.start = max(0, self._window.start - 1)
        if text is not None:
            self._messages[:0] = checked_messages([{"role": "system", "content": text}])
            self._window.start += 1

    def append(self, message: Message) -> None:
        """Add a message without answering it, such as the result of a tool."""
        self._messages += checked_messages([message])

    def edit(self, index: int, content: Any) -> None:
        """Give a message another content; what comes after it stays.

        Args:
            index: Its place in `messages`; negative from the end.
            content: A text, or a list of text parts.

        Raises:
            IndexError: There is no such message.
            TemplateError: The content is no text.
        """
        edited = {**self._messages[index], "content": content}
        self._messages[index] = checked_messages([edited])[0]
        self._changed(index)

    def remove(self, index: int) -> None:
        """Remove a message; what comes after it stays."""
        del self._messages[index]
        self._changed(index)

    def rewind(self, n_turns: int = 1) -> None:
        """Take back the last turns: the user's messages and everything behind them.

        Raises:
            ParameterError: There are not so many.
        """
        starts = turn_starts(self._messages)
        if not 0 <= n_turns <= len(starts):
            raise ParameterError(f"{n_turns} turns cannot be taken back: there are {len(starts)}.")
        if n_turns:
            del self._messages[starts[-n_turns] :]
            self._changed(len(self._messages))

    def _changed(self, index: int) -> None:
        """What was dropped before may be seen again, if the change lies there."""
        place = index % (len(self._messages) + 1)
        if place < self._window.start:
            self._window = Window()
