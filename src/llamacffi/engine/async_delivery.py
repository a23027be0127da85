"""Handing steps over to event loops: each loop is woken once a step, not once a token."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from llamacffi.engine.request import Request
from llamacffi.errors import UnsupportedError
from llamacffi.generation import Step

__all__ = ["AsyncMailbox", "PostOffice"]


class PostOffice:
    """Collects what a step brought for whom, and wakes their event loops at its end.

    Used in the engine's thread only.
    """

    def __init__(self) -> None:
        # Dictionaries for their keys: those who have news, in order, once each.
        self._news: dict[asyncio.AbstractEventLoop, dict[AsyncMailbox, None]] = {}

    def note(self, mailbox: AsyncMailbox) -> None:
        """There is news for this one."""
        self._news.setdefault(mailbox.loop, {})[mailbox] = None

    def flush(self) -> None:
        """Wake all who have news."""
        if not self._news:
            return
        news, self._news = self._news, {}
        for loop, mailboxes in news.items():
            try:
                loop.call_soon_threadsafe(_ring, list(mailboxes))
            except RuntimeError:  # the loop is closed, and nobody there waits any more
                for mailbox in mailboxes:
                    mailbox.abandon()


class AsyncMailbox:
    """Where one coroutine waits for the steps of some requests; made in its event loop.

    Args:
        post: Wakes it.

    Attributes:
        requests: Those that deliver here.
    """

    def __init__(self, post: PostOffice) -> None:
        self.loop = asyncio.get_running_loop()
        self.requests: Sequence[Request] = ()
        self._post = post
        self._items: deque[tuple[int, Step | BaseException | None]] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, index: int, item: Step | BaseException | None) -> None:
        """See `Recipient`."""
        self._items.append((index, item))
        self._post.note(self)

    def check_reader(self) -> None:
        """Refuse a second reader, of whom only one would be woken.

        Raises:
            UnsupportedError: Another task waits here.
        """
        if self._waiter is not None:
            raise UnsupportedError(
                "Two tasks read one stream. Let one of them read it, and hand the pieces on."
            )

    async def get(self) -> tuple[int, Step | None]:
        """The next step of a request, or None for its end.

        Raises:
            Exception: What ended a request.
        """
        while not self._items:
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        index, item = self._items.popleft()
        if isinstance(item, BaseException):
            try:
                raise item
            finally:
                del item  # its traceback holds this frame
        return index, item

    def abandon(self) -> None:
        """Nobody reads any more: drop the requests."""
        for request in self.requests:
            request.cancelled = True

    def ring(self) -> None:
        """Wake the coroutine that waits; called in the event loop."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _ring(mailboxes: list[AsyncMailbox]) -> None:
    for mailbox in mailboxes:
        mailbox.ring()
