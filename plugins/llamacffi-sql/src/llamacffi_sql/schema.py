"""Telling the schema in a system message from the instructions."""

from __future__ import annotations

import re

from llamacffi_sql.lexemes import COMMENT, QUOTED

__all__ = ["split"]

_NAME = r"""(?:[\w.$]|"[^"\n]*"|`[^`\n]*`|\[[^\]\n]*\])+"""
# Capitalised, as in "Create table aliases.", it is a sentence.
_START = re.compile(
    rf"""^[^\S\n]*(?:
        (?-i:CREATE|create) \s+ (?:\w+\s+){{0,3}}?
            (?: TABLE \s+ (?:IF\s+NOT\s+EXISTS\s+)? {_NAME} \s* (?:\(|AS\b)
            | (?:VIEW|INDEX|TYPE|DOMAIN|SEQUENCE|SCHEMA|DATABASE) \s+ [\w"`\[]
            )
        | (?-i:ALTER|alter) \s+ TABLE \s+ [\w"`\[]
        | (?-i:COMMENT|comment) \s+ ON \s+ \w
        | --(?!-)
        )""",
    re.MULTILINE | re.IGNORECASE | re.VERBOSE,
)
# Up to the semicolon and a comment behind it; without a semicolon, up to an empty line.
_STATEMENT = re.compile(
    rf"(?:{COMMENT}|{QUOTED}|(?!\n[^\S\n]*\n)[^;])*(?:;[^\S\n]*(?:--[^\n]*)?|)", re.DOTALL
)
_LINE = re.compile(r"[^\n]*")


def split(text: str) -> tuple[str, str]:
    """The statements that define tables, and everything else.

    Comments on lines of their own go with the statements.
    """
    schema: list[str] = []
    rest: list[str] = []
    place = 0
    for start in _START.finditer(text):
        if start.start() < place:
            continue
        comment = start[0].lstrip().startswith("--")
        end = (_LINE if comment else _STATEMENT).match(text, start.start())
        assert end is not None  # both match the empty text
        rest.append(text[place : start.start()])
        schema.append(end[0].strip())
        place = end.end()
    rest.append(text[place:])
    return "\n".join(schema), "\n".join(part for piece in rest if (part := piece.strip()))
