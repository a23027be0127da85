r"""Reading an answer: which of it is SQL, and which explains it.

The text is read in steps that each depend on nothing behind them. While it is still growing, the
last one is left out, since more text could change it: so what is read early is a beginning of what
is read later.
"""

from __future__ import annotations

import re
from typing import Any

from llamacffi_sql.escaping import unescaped
from llamacffi_sql.lexemes import COMMENT, QUOTED

__all__ = ["STOPS", "parse"]

STOPS = ("[/SQL]", "[QUESTION]", "\n###")

_VERBS = "SELECT|WITH|INSERT|UPDATE|DELETE|MERGE|CREATE|ALTER|DROP|EXPLAIN|VALUES|PRAGMA"
_BEFORE = r"(?P<space>\s+)|(?P<fence>```(?:\w*sql\w*)?)|(?P<tag>\[SQL\])"

# Between statements. Capitalised, as in "With this", a verb starts a sentence.
_BETWEEN = re.compile(
    rf"""{_BEFORE}|(?P<comment>{COMMENT})
        |(?P<statement>(?=(?:\([^\S\n]*)*(?-i:{_VERBS}|{_VERBS.lower()})\W))
        |(?P<prose>(?:(?!```)[^\n])+)""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
# The same inside a fence, where whatever is no comment is SQL.
_FENCED = re.compile(
    rf"{_BEFORE}|(?P<comment>{COMMENT})|(?P<statement>)", re.DOTALL | re.IGNORECASE
)
_STATEMENT = re.compile(
    rf"""(?P<space>\s+)|(?P<fence>```(?:\w*sql\w*)?)|(?P<end>;)
        |(?P<sql>{COMMENT}|{QUOTED}|\\+\#*|\w+|.)""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)


def parse(text: str, partial: bool = False) -> dict[str, Any]:
    """Turn an answer into a message.

    Args:
        text: The answer, with or without code fences, sentences around them, and a stop.
        partial: It is still growing.

    Returns:
        "content" is the SQL, as it can be run: empty if there is none. "reasoning_content", if
        there is any, is what stands in comments and sentences outside of the statements.
    """
    text, partial = _until_stop(text, partial)
    reader = _Reader()
    place = 0
    while place < len(text):
        step = reader.lexemes.match(text, place)
        assert step is not None  # each of the expressions takes any character
        if partial and step.end() == len(text):
            break
        reader.take(step)
        place = step.end()
    message = {"role": "assistant", "content": "\n".join(filter(None, reader.statements))}
    if reader.notes:
        message["reasoning_content"] = "\n".join(reader.notes)
    return message


class _Reader:
    """What has been read so far."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.notes: list[str] = []
        self.lexemes = _BETWEEN
        self._fenced = False
        self._space = ""  # seen, and part of the statement if it goes on

    def take(self, step: re.Match[str]) -> None:
        """Take what the current expression has matched."""
        kind, text = step.lastgroup, step[0]
        if kind == "fence":
            # A prompt may have opened it, so that the answer only closes it.
            opens = not self._fenced and (len(text) > len("```") or not self.statements)
            self._fenced = opens
            self._leave()
        elif kind == "statement":
            self.statements.append("")
            self.lexemes = _STATEMENT
        elif self.lexemes is _STATEMENT:
            self._take_sql(kind, text)
        elif kind == "comment":
            self._note(text[2:].removesuffix("*/") if text.startswith("/*") else text[2:])
        elif kind == "prose":
            self._note(text)

    def _take_sql(self, kind: str | None, text: str) -> None:
        if kind == "space":
            self._space = text
            return
        self.statements[-1] += self._space + unescaped(text)
        self._space = ""
        if kind == "end":
            self._leave()

    def _leave(self) -> None:
        self._space = ""
        self.lexemes = _FENCED if self._fenced else _BETWEEN

    def _note(self, text: str) -> None:
        note = unescaped(text).strip()
        if note:
            self.notes.append(note)


def _until_stop(text: str, partial: bool) -> tuple[str, bool]:
    """The text before a stop, and whether more can follow: part of a stop is not shown."""
    text = "\n" + text  # the prompt ends with one
    places = [place for stop in STOPS if (place := text.find(stop)) >= 0]
    if places:
        return text[1 : max(1, min(places))], False
    if not partial:
        return text[1:], False
    begun = max(
        length for stop in STOPS for length in range(len(stop)) if text.endswith(stop[:length])
    )
    return text[1 : max(1, len(text) - begun)], True
