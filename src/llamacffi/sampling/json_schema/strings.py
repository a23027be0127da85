r"""Patterns, formats and lengths of strings, written so that upstream's converter keeps them.

Upstream copies a pattern almost verbatim into the grammar of the JSON text: a dot or a class lets
raw quotes, backslashes and line ends through, which is broken JSON; an escape such as `\d` or a
missing anchor turns the whole pattern into "any string" with a warning; and a quantifier after an
escape repeats the characters before it, too. So patterns are written again from their meaning:
anchored, every class spelled out, quotes and backslashes as JSON escapes them, and every repeated
part in parentheses with its count, which upstream then makes a rule of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from llamacffi.sampling.json_schema.pattern import (
    ALL,
    AnyOf,
    Chars,
    Node,
    PatternError,
    Ranges,
    Repeat,
    Sequence,
    common,
    of,
    others,
    ranges,
)  # fmt: skip

__all__ = ["FORMATS", "MAX_REPEAT", "any_text", "lengths", "with_lengths", "write"]

MAX_REPEAT = 2000  # MAX_REPETITION_THRESHOLD of llama-grammar.cpp: above, it means "without end"
MAX_WRITTEN = 50_000


def any_text(low: int, high: int | None) -> Node:
    """Return any text of that many characters."""
    return Repeat(Chars(ALL), low, high)


def lengths(node: Node) -> tuple[int, int | None]:
    """Return how many characters a match has at least and at most."""
    if isinstance(node, Chars):
        return 1, 1
    if isinstance(node, Repeat):
        low, high = lengths(node.part)
        if node.high == 0 or high == 0:
            return 0, 0
        unlimited = node.high is None or high is None
        return low * node.low, None if unlimited else (high or 0) * (node.high or 0)
    each = [lengths(part) for part in node.parts]
    highs = [high for _, high in each if high is not None]
    bounded = len(highs) == len(each)
    if isinstance(node, Sequence):
        return sum(low for low, _ in each), sum(highs) if bounded else None
    return min(low for low, _ in each), max(highs) if bounded else None


def with_lengths(node: Node, low: int, high: int | None) -> Node:
    """Return the matches of at least low and at most high characters.

    Raises:
        PatternError: That needs counting, which a grammar cannot do.
    """
    shortest, longest = lengths(node)
    if shortest >= low and (high is None or (longest is not None and longest <= high)):
        return node
    if isinstance(node, AnyOf):
        return AnyOf(tuple(with_lengths(part, low, high) for part in node.parts))
    if isinstance(node, Sequence):
        each = [lengths(part) for part in node.parts]
        open_ended = [at for at, (least, most) in enumerate(each) if least != most]
        if len(open_ended) == 1:
            at = open_ended[0]
            rest = sum(least for least, _ in each) - each[at][0]
            if high is None or high >= rest:
                limit = None if high is None else high - rest
                part = with_lengths(node.parts[at], max(low - rest, 0), limit)
                return Sequence((*node.parts[:at], part, *node.parts[at + 1 :]))
    if isinstance(node, Repeat) and isinstance(node.part, Chars):
        low = max(low, node.low)
        ends = [end for end in (high, node.high) if end is not None]
        if not ends or min(ends) >= low:
            return Repeat(node.part, low, min(ends) if ends else None)
    raise PatternError("its matches have other lengths than minLength and maxLength say")


# -- writing --------------------------------------------------------------------------------------

_PLAIN = others(ranges([(0, 0x1F), *of('"\\'), (0x7F, 0x7F)]))
_ESCAPED = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}


def _character(code: int) -> str:
    if chr(code).isascii() and chr(code).isalnum():
        return chr(code)
    return f"\\x{code:02X}" if code < 0x80 else f"\\U{code:08X}"


def _class(chars: Ranges) -> str:
    if len(chars) == 1 and chars[0][0] == chars[0][1]:
        return _character(chars[0][0])
    inside = "".join(
        _character(low) + ("" if high == low else "-" + _character(high)) for low, high in chars
    )
    return f"[{inside}]"


def _write_chars(chars: Ranges) -> str:
    """Write a set as JSON spells its characters; other control characters are left out."""
    ways = []
    if plain := common(chars, _PLAIN):
        ways.append(_class(plain))
    letters = [letter for character, letter in _ESCAPED.items() if common(chars, of(character))]
    if letters:
        ways.append("\\x5C" + _class(of("".join(letters))))
    if not ways:
        raise PatternError("it has a control character or an empty class, which no text can match")
    return ways[0] if len(ways) == 1 else f"({'|'.join(ways)})"


def _not_empty(node: Node) -> Node:
    """Return the matches without the empty one: a grammar loops for ever on repeating that."""
    if isinstance(node, Chars) or lengths(node)[0] > 0:
        return node
    if isinstance(node, Repeat):
        return Repeat(_not_empty(node.part), 1, node.high)
    some = [part for part in node.parts if lengths(part)[1] != 0]
    if isinstance(node, AnyOf):
        return AnyOf(tuple(_not_empty(part) for part in some))
    # The first part that is not empty, and what follows it.
    rests = (Sequence((_not_empty(part), *some[at + 1 :])) for at, part in enumerate(some))
    return AnyOf(tuple(rests))


def _joined(separator: str, parts: Iterable[Node]) -> str:
    texts: dict[str, None] = {}
    pieces: list[str] = []
    size = 0
    for part in parts:
        text = _write(part)
        if separator and text in texts:
            continue
        texts[text] = None
        pieces.append(text)
        size += len(text)
        if size > MAX_WRITTEN:
            raise PatternError("it is too long once it is written out")
    return separator.join(pieces)


def _write(node: Node) -> str:
    if isinstance(node, Chars):
        return _write_chars(node.ranges)
    if isinstance(node, Sequence):
        return _joined("", node.parts)
    if isinstance(node, AnyOf):
        text = _joined("|", node.parts)
        return text if len(node.parts) == 1 else f"({text})"
    if lengths(node)[1] == 0:
        return ""
    if node.low > MAX_REPEAT:
        raise PatternError(f"it repeats a part more than {MAX_REPEAT} times")
    part, low = node.part, node.low
    if lengths(part)[0] == 0:
        part, low = _not_empty(part), 0
    high = "" if node.high is None else min(node.high, MAX_REPEAT)
    return f"({_write(part)}){{{low},{high}}}"


def write(node: Node) -> str:
    """Write the pattern so that upstream's converter makes a grammar of the same texts.

    Raises:
        PatternError: It needs characters that JSON text cannot have, or too many repetitions.
    """
    return f"^{_write(node)}$"


# -- formats --------------------------------------------------------------------------------------

_LABEL = "[A-Za-z0-9]{1,20}(?:-[A-Za-z0-9]{1,20}){0,2}"  # of the 63 characters that are allowed
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,3}}"  # of 253
_YEAR = r"(?:[1-9]\d{3}|0[1-9]\d\d|00[1-9]\d|000[1-9])"
_LEAP_YEAR = r"\d\d(?:0[48]|[2468][048]|[13579][26])"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    rf"|02-(?:0[1-9]|1\d|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_DURATION = r"T(?:\d{1,9}H(?:\d{1,9}M(?:\d{1,9}S)?)?|\d{1,9}M(?:\d{1,9}S)?|\d{1,9}S)"
_DAYS = r"(?:\d{1,9}Y(?:\d{1,9}M(?:\d{1,9}D)?)?|\d{1,9}M(?:\d{1,9}D)?|\d{1,9}D)"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_WORDS = r"[A-Za-z0-9!#$&'*+=?^_`{|}~-]{1,20}"
_PATH = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"

# Patterns whose every match has the format; some values of the format are left out.
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P(?:\\d{{1,9}}W|{_DAYS}(?:{_DURATION})?|{_DURATION})",
    "uuid": "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "email": rf"{_WORDS}(?:\.{_WORDS}){{0,2}}@{_HOST}",
    "hostname": _HOST,
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "ipv6": "[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){7}",
    # At most 2083 characters, the limit that pydantic gives.
    "uri": rf"[A-Za-z][A-Za-z0-9+.-]{{0,19}}://{_HOST}(?::\d{{1,4}})?(?:/(?:{_PATH}|/){{0,400}})?"
    rf"(?:\?(?:{_PATH}|[/?]){{0,150}})?(?:#(?:{_PATH}|[/?]){{0,40}})?",
}
FORMATS = {name: f"^{pattern}$" for name, pattern in FORMATS.items()}
