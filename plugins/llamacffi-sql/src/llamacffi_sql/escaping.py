r"""Contents that cannot be mistaken for the format's own headings and tags.

The format is made of two marks: `###`, which starts a heading, and the tags `[QUESTION]`, `[SQL]`
and their ends. In a content each gets a backslash, one that has backslashes gets one more: `\###`,
`[\SQL]`, `[\\/SQL]`. So no content holds a mark, and each can be read back as it was.
"""

from __future__ import annotations

import re

__all__ = ["escaped", "unescaped"]

_TAG = r"[^\S\n]*/?[^\S\n]*(?:QUESTION|SQL)[^\S\n]*\]"
_MARK = re.compile(rf"(\[)(\\*)({_TAG})|(\\*)(\#{{3,}})", re.IGNORECASE)
_ESCAPED = re.compile(rf"(\[)\\(\\*{_TAG})|\\(\\*\#{{3,}})", re.IGNORECASE)


def escaped(text: str) -> str:
    """The text with a backslash in each mark of the format."""
    return _MARK.sub(r"\1\\\2\4\3\5", text)


def unescaped(text: str) -> str:
    """What `escaped` was given."""
    return _ESCAPED.sub(r"\1\2\3", text)
