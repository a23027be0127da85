"""Which requests begin alike: a worker computes the beginning of a prompt once."""

from __future__ import annotations

from typing import Any

import orjson

__all__ = ["affinity_of"]

SHORT_BYTES = 1000  # less is computed anew sooner than waited for
PROMPT_CHARACTERS = 1000


def affinity_of(body: bytes) -> int | None:
    """The same number for turns of one conversation, or for texts with the same long beginning.

    Args:
        body: A request's.

    Returns:
        None for a request that is short, or has neither messages nor a text to complete.
    """
    if len(body) < SHORT_BYTES:
        return None
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(asked, dict):
        return None
    beginning = _beginning(asked)
    return None if beginning is None else hash(beginning)


def _beginning(asked: dict[str, Any]) -> bytes | str | None:
    messages, prompt = asked.get("messages"), asked.get("prompt")
    if isinstance(messages, list):
        return orjson.dumps(messages[: _first_question(messages) + 1])
    if isinstance(prompt, str):
        return prompt[:PROMPT_CHARACTERS]
    return None


def _first_question(messages: list[Any]) -> int:
    """The index of the user's first message; the system's alone would be many conversations'."""
    for index, message in enumerate(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return index
    return len(messages)
