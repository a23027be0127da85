"""llguidance's messages, in the form of llamacffi's."""

from __future__ import annotations

import re

__all__ = ["readable"]

MAX_CHARACTERS = 1000


def readable(message: str) -> str:
    """Drop the debugging aids; say line and column; end with a full stop."""
    # An exception of the vocabulary's arrives as a panic.
    message = re.sub(
        r"^panic: .*?value: \w+\((.*?)\), traceback.*", r"\1", message, flags=re.DOTALL
    )
    message = re.sub(r"<backtrace>.*?(</backtrace>|$)", "", message, flags=re.DOTALL)
    message = message.replace("<non-verbose/>", "").strip()
    message = re.sub(r"^(?:at )?(\d+)\((\d+)\): ", r"line \1, column \2: ", message)
    if len(message) > MAX_CHARACTERS:
        message = message[: MAX_CHARACTERS // 2] + " [...] " + message[-MAX_CHARACTERS // 2 :]
    return message if message.endswith((".", "^")) else message + "."
