"""The loop of a chat: a line is a question or a command, and a mistake does not end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llamacffi.chat import ChatSession
from llamacffi.cli.chat_commands import run_command
from llamacffi.context import Context
from llamacffi.errors import LlamaCffiError
from llamacffi.generation import Usage

__all__ = ["AnswerStats", "Chat", "Front"]


class Front(Protocol):
    """Where questions come from and answers go to.

    Attributes:
        interactive: Somebody sits there: Ctrl-C stops an answer, not the program.
        commands: Lines that begin with a slash are commands.
    """

    interactive: bool
    commands: bool

    def read(self, status: str, text: str = "") -> str | None:
        """The next line; None at the end. `text` is what it begins with, to be edited."""

    def answering(self) -> AbstractContextManager[object]:
        """Surrounds the pieces of an answer."""

    def show(self, piece: str) -> None:
        """Show a piece of an answer."""

    def think(self, piece: str) -> None:
        """Show a piece of the model's thoughts."""

    def say(self, message: str) -> None:
        """Show what is no answer."""

    def fail(self, message: str) -> None:
        """Show what went wrong."""


@dataclass(frozen=True)
class AnswerStats:
    """How long an answer took.

    Attributes:
        usage: Its tokens.
        first_seconds: Until its first piece.
        rate: Tokens in a second after that; None for a single token.
    """

    usage: Usage
    first_seconds: float
    rate: float | None

    def __str__(self) -> str:
        first = f"first after {self.first_seconds:.2f} s"
        return first if self.rate is None else f"{self.rate:.1f} tokens/s, {first}"


class Chat:
    """A chat with somebody, until they leave.

    Args:
        context: What the model remembers with.
        front: Who asks.
        settings: Arguments of `ChatSession`; where a chat is loaded, they replace what was saved.
        load: A saved chat to go on with.

    Attributes:
        session: The conversation; another one after `load`.
        stats: Of the last answer; None if what is remembered has changed since.
        done: Set it to leave.
        failed: Whether anything went wrong.

    Raises: As ChatSession and ChatSession.load.
    """

    def __init__(
        self,
        context: Context,
        front: Front,
        settings: dict[str, Any],
        load: Path | None = None,
    ) -> None:
        self.context = context
        self.front = front
        if load is None:
            self.session = ChatSession(context, **settings, on_reasoning=self._think)
        else:
            replaced = {name: value for name, value in settings.items() if name != "system"}
            self.session = self._loaded(load, **replaced)
            if "system" in settings:
                self.session.system = settings["system"]
        self.stats: AnswerStats | None = None
        self.done = False
        self.failed = False
        self._draft = ""
        self._first: float | None = None  # when the first piece of the last answer came

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *exception: object) -> None:
        self.session.close()

    @property
    def status(self) -> str:
        """The model, how full the context is, and the speed of the last answer."""
        parts = [self.context.model.path.stem]
        if self.stats is not None:
            parts.append(f"{self.stats.usage.total_tokens} of {self.context.n_ctx_seq} tokens")
            parts.append(str(self.stats))
        return " | ".join(parts)

    def run(self) -> bool:
        """Read and answer until the end.

        Returns:
            Whether anything went wrong on the way.

        Raises:
            KeyboardInterrupt: Ctrl-C, where nobody sits at a terminal.
        """
        while not self.done:
            try:
                text, self._draft = self.front.read(self.status, self._draft), ""
                if text is None:
                    break
                self._take(text)
            except KeyboardInterrupt:
                if not self.front.interactive:
                    raise
                self.front.say("Ctrl-D or /exit leaves the chat.")
        return self.failed

    def fail(self, error: object) -> None:
        """Show an error in one line; the chat goes on."""
        self.failed = True
        self.front.fail(" ".join(str(error).split()))

    def answer(self, begin: Callable[[], Iterator[str]], question: str = "") -> None:
        """Show an answer as it comes. If there is none, the history is as before.

        Args:
            begin: Asks the session for the answer, perhaps after a change of its history.
            question: What can be changed and asked again if the answer is stopped before it came.
        """
        before = self.session.messages
        stopped, self._first = False, None
        start = time.perf_counter()
        try:
            with self.front.answering(), closing(_pieces(begin)) as pieces:
                for piece in pieces:
                    self._first = self._first or time.perf_counter()
                    self.front.show(piece)
        except KeyboardInterrupt:
            if not self.front.interactive:
                raise
            stopped = True
        except LlamaCffiError as error:
            self.replace(before)
            self.fail(error)
            return
        if self._first is not None:
            self._measure(start, self._first)
        elif stopped:
            self.replace(before)
            self._draft = f"/{question}" if question.startswith("/") else question
        if stopped:
            self.front.say("Stopped.")

    def replace(self, messages: list[dict[str, Any]]) -> None:
        """Put another history in place of the session's."""
        now = self.session.messages
        if now == messages:
            return
        same = next(
            (i for i, (a, b) in enumerate(zip(now, messages, strict=False)) if a != b),
            min(len(now), len(messages)),
        )
        for index in range(len(now) - 1, same - 1, -1):
            self.session.remove(index)
        for message in messages[same:]:
            self.session.append(message)
        self.stats = None

    def load(self, path: Path) -> None:
        """Go on with a saved chat; the one that was going on stays if that fails.

        Raises: As ChatSession.load.
        """
        loaded = self._loaded(path)
        self.session.close()
        self.session, self.stats = loaded, None

    def _take(self, text: str) -> None:
        if not text.strip():
            return
        if self.front.commands and text.startswith("/") and not text.startswith("//"):
            try:
                run_command(self, text)
            except (LlamaCffiError, OSError) as error:
                self.fail(error)
            return
        question = text[1:] if self.front.commands and text.startswith("//") else text
        self.answer(lambda: self.session.stream(question), question)

    def _think(self, piece: str) -> None:
        self._first = self._first or time.perf_counter()
        self.front.think(piece)

    def _loaded(self, path: Path, **settings: Any) -> ChatSession:
        return ChatSession.load(path, self.context, **settings, on_reasoning=self._think)

    def _measure(self, start: float, first: float) -> None:
        usage, seconds = self.session.usage, time.perf_counter() - first
        n_more = usage.completion_tokens - 1
        rate = n_more / seconds if n_more > 0 and seconds > 0 else None
        self.stats = AnswerStats(usage, first - start, rate)


def _pieces(begin: Callable[[], Iterator[str]]) -> Generator[str, None, None]:
    """The pieces, with a `close` that ends the answer where it is."""
    yield from begin()
