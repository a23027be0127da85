"""`ChatSession` for asyncio: the same calls, awaited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacffi.aio import AsyncFront, awaited, plain, streamed
from llamacffi.chat import ChatSession

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncChatSession"]


class AsyncChatSession(AsyncFront[ChatSession]):
    """A `ChatSession` whose answers are awaited.

    Its methods take the arguments of ChatSession's; `async for piece in chat.stream("Hi")`. What
    takes no time, such as changing the history, is done on `session` itself. A cancelled task
    stops its answer; what was shown of it stays in the history. A session is for one task at a
    time: another one's question ends the stream of the first.

    Args:
        session: The session that answers; it is closed by `aclose`.
    """

    def __init__(self, session: ChatSession) -> None:
        super().__init__(session)

    @property
    def session(self) -> ChatSession:
        """The `ChatSession` that answers."""
        return self._wrapped

    ask = awaited(ChatSession.ask)
    stream = streamed(ChatSession.stream)
    regenerate = awaited(ChatSession.regenerate)
    stream_again = streamed(ChatSession.stream_again)
    save = awaited(ChatSession.save)
    append = plain(ChatSession.append)
    aclose = awaited(ChatSession.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncChatSession({self.session!r})"
