r"""Regular expressions of JSON schemas, read into a tree.

JSON schemas use ECMA-262's dialect, Python's validators use Python's. Where the two differ, only
what both allow is kept: `\d` is an ASCII digit, `[^\d]` is ASCII too, and `.` is no line end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["ALL", "AnyOf", "Chars", "Node", "PatternError", "Ranges", "Repeat", "Sequence",
           "common", "of", "others", "parse", "ranges"]  # fmt: skip

MAX_LENGTH = 4096
MAX_DEPTH = 24  # upstream gives up on 100 nested parentheses, and one level here takes up to three


class PatternError(ValueError):
    """A pattern, or a part of it, that cannot be rewritten."""


# -- sets of characters ---------------------------------------------------------------------------

Ranges: TypeAlias = "tuple[tuple[int, int], ...]"  # sorted, apart, both ends included


def ranges(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """Return the characters from first to last of each pair, as a set."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def others(taken: Ranges) -> Ranges:
    """Return every other character; surrogates are none."""
    gaps, start = [], 0
    for low, high in ranges([*taken, (0xD800, 0xDFFF)]):
        if start < low:
            gaps.append((start, low - 1))
        start = high + 1
    return ranges([*gaps, (start, 0x10FFFF)] if start <= 0x10FFFF else gaps)


def of(text: str) -> Ranges:
    """Return the characters of a text."""
    return ranges((ord(character), ord(character)) for character in text)


def common(one: Ranges, other: Ranges) -> Ranges:
    """Return the characters that both have."""
    return others(ranges([*others(one), *others(other)]))


ALL = others(())
_ASCII, _BEYOND_ASCII = ((0, 0x7F),), ((0x80, 0x10FFFF),)
_DIGITS = ((0x30, 0x39),)
_WORD = ranges([*_DIGITS, (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
_SPACE = of("\t\n\v\f\r ")
_ANY_SPACE = ranges([
    (0x09, 0x0D), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
    (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
])  # fmt: skip
_DOT = others(of("\n\r\u2028\u2029"))

# What surely belongs to the class, and what may belong to it in one of the dialects.
_CLASSES: dict[str, tuple[Ranges, Ranges]] = {
    "d": (_DIGITS, ranges([*_DIGITS, *_BEYOND_ASCII])),
    "w": (_WORD, ranges([*_WORD, *_BEYOND_ASCII])),
    "s": (_SPACE, _ANY_SPACE),
}
_CLASSES |= {
    letter.upper(): (others(may), others(surely)) for letter, (surely, may) in _CLASSES.items()
}
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}


# -- the tree -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chars:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True)
class Sequence:
    """Parts one after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class AnyOf:
    """One of several."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """A part several times; high None for without end."""

    part: Node
    low: int
    high: int | None


Node: TypeAlias = "Chars | Sequence | AnyOf | Repeat"

_ANYTHING = Repeat(Chars(ALL), 0, None)


# -- reading --------------------------------------------------------------------------------------


class _Parser:
    """Recursive descent over the part of the syntax that ECMA-262 and Python share."""

    def __init__(self, pattern: str) -> None:
        self.text = pattern
        self.at = 0
        self.depth = 0

    def peek(self, prefix: str) -> bool:
        return self.text.startswith(prefix, self.at)

    def take(self, prefix: str) -> bool:
        found = self.peek(prefix)
        self.at += len(prefix) if found else 0
        return found

    def whole(self) -> Node:
        branches = []
        while True:
            start = [] if self.take("^") else [_ANYTHING]
            body = self.sequence()
            end = [] if self.take("$") else [_ANYTHING]
            branches.append(Sequence((*start, body, *end)))
            if self.at == len(self.text):
                return AnyOf(tuple(branches))
            if not self.take("|"):
                raise self.unsupported()

    def unsupported(self) -> PatternError:
        return PatternError(f"{self.text[self.at : self.at + 3]!r} is not supported there")

    def alternatives(self) -> Node:
        branches = [self.sequence()]
        while self.take("|"):
            branches.append(self.sequence())
        return AnyOf(tuple(branches))

    def sequence(self) -> Node:
        parts: list[Node] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)$":
            parts.append(self.repeated(self.atom()))
        return Sequence(tuple(parts))

    def repeated(self, part: Node) -> Node:
        if self.take("*"):
            low, high = 0, None
        elif self.take("+"):
            low, high = 1, None
        elif self.take("?"):
            low, high = 0, 1
        elif found := re.compile(r"\{(\d{1,9})(,(\d{0,9}))?\}", re.ASCII).match(self.text, self.at):
            self.at = found.end()
            low = int(found[1])
            high = low if not found[2] else int(found[3]) if found[3] else None
            if high is not None and high < low:
                raise PatternError(f"{found[0]} has its numbers the wrong way round")
        else:
            return part
        self.take("?")  # lazy or not, it matches the same texts
        if self.at < len(self.text) and self.text[self.at] in "*+?{":
            raise self.unsupported()
        return Repeat(part, low, high)

    def atom(self) -> Node:
        if self.take("("):
            return self.group()
        if self.take("["):
            return Chars(self.character_class())
        if self.take("."):
            return Chars(_DOT)
        if self.take("\\"):
            surely, _ = self.escape()
            return Chars(surely)
        if self.text[self.at] in "*+?{^":
            raise self.unsupported()
        self.at += 1
        return Chars(of(self.text[self.at - 1]))

    def group(self) -> Node:
        start = self.at
        if self.peek("?") and not self.take("?:"):
            named = re.compile(r"\?P?<[A-Za-z_]\w*>", re.ASCII).match(self.text, self.at)
            if not named:
                raise PatternError(f"'({self.text[start : start + 3]}' is not supported")
            self.at = named.end()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise PatternError(f"it nests more than {MAX_DEPTH} groups")
        inside = self.alternatives()
        self.depth -= 1
        if not self.take(")"):
            raise self.unsupported() if self.at < len(self.text) else PatternError("')' is missing")
        return inside

    def escape(self, in_class: bool = False) -> tuple[Ranges, Ranges]:
        """Read what follows a backslash: what it surely and what it perhaps stands for."""
        if self.at == len(self.text):
            raise PatternError("it ends in a backslash")
        letter = self.text[self.at]
        self.at += 1
        if letter in _CLASSES:
            return _CLASSES[letter]
        if letter == "b" and in_class:
            character = "\b"
        elif letter == "0" and self.text[self.at : self.at + 1].isdigit():
            raise PatternError("octal escapes are not supported")
        elif letter in _CONTROL:
            character = _CONTROL[letter]
        elif letter in "xu":
            digits = self.text[self.at : self.at + (2 if letter == "x" else 4)]
            if not re.fullmatch(r"[0-9A-Fa-f]{2}|[0-9A-Fa-f]{4}", digits, re.ASCII):
                raise PatternError(f"'\\{letter}{digits}' is not a character")
            self.at += len(digits)
            character = chr(int(digits, 16))
            if "\ud800" <= character <= "\udfff":
                raise PatternError(f"'\\u{digits}' is half a character")
        elif letter.isascii() and not letter.isalnum() and letter != "_":
            character = letter
        else:
            raise PatternError(f"'\\{letter}' is not supported")
        return of(character), of(character)

    def character_class(self) -> Ranges:
        negated = self.take("^")
        surely: list[tuple[int, int]] = []
        perhaps: list[tuple[int, int]] = []
        if self.peek("]"):
            raise PatternError("a class without characters is not supported")
        while not self.take("]"):
            one = self.class_member()
            if self.peek("-") and not self.peek("-]"):
                self.at += 1
                other = self.class_member()
                if any(len(part) != 1 or part[0][0] != part[0][1] for part in (one[1], other[1])):
                    raise PatternError("a range between classes is not supported")
                low, high = one[0][0][0], other[0][0][0]
                if high < low:
                    raise PatternError(f"a range ends before it starts in {self.text!r}")
                one = (((low, high),),) * 2
            surely += one[0]
            perhaps += one[1]
        return others(ranges(perhaps)) if negated else common(ranges(surely), ALL)

    def class_member(self) -> tuple[Ranges, Ranges]:
        if self.at == len(self.text):
            raise PatternError("']' is missing")
        if self.take("\\"):
            return self.escape(in_class=True)
        self.at += 1
        return (of(self.text[self.at - 1]),) * 2


def parse(pattern: str) -> Node:
    """Read a pattern, which may match anywhere in the text unless it is anchored.

    Raises:
        PatternError: It is malformed, or uses something that is not supported.
    """
    if len(pattern) > MAX_LENGTH:
        raise PatternError(f"it is longer than {MAX_LENGTH} characters")
    return _Parser(pattern).whole()
