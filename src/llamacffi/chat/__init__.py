"""Chat sessions: a history, and a memory that follows it."""

from llamacffi.chat.functions import tool_of
from llamacffi.chat.session import ChatSession

__all__ = ["ChatSession", "tool_of"]
