"""Documents that a GBNF grammar allows, drawn at random: what tests check the grammar with."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_RULE = re.compile(r"([A-Za-z0-9-]+)[ \t]*::=")
_COUNT = re.compile(r"\{[ ]*(\d+)[ ]*(?:(,)[ ]*(\d*)[ ]*)?\}")
_HEX = {"x": 2, "u": 4, "U": 8}
_CONTROL = {"t": "\t", "r": "\r", "n": "\n"}
_FAR = 10**9


@dataclass
class _Node:
    """A part of a rule: `kind` says how `parts` and the rest are meant."""

    kind: str  # text, set, rule, sequence, choice, repeat
    parts: list[_Node] = field(default_factory=list)
    text: str = ""
    ranges: list[tuple[int, int]] = field(default_factory=list)
    negated: bool = False
    low: int = 0
    high: int | None = None


class Grammar:
    """A parsed grammar.

    Arguments:
        text: GBNF rules as upstream's converter writes them; tokens (`<[5]>`) are not read.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.rules: dict[str, _Node] = {}
        self._skip()
        while self._at < len(text):
            found = _RULE.match(text, self._at)
            if not found:
                raise ValueError(f"no rule at {text[self._at : self._at + 40]!r}")
            self._at = found.end()
            self._skip()
            self.rules[found[1]] = self._choice(nested=False)
            self._skip()
        self._depths = self._shortest_derivations()

    def generate(self, rng: random.Random, root: str = "root", budget: int = 60) -> str:
        """Return a random text of the grammar; past the budget of choices, a short way out."""
        self._budget = budget
        out: list[str] = []
        self._emit(self.rules[root], rng, out)
        return "".join(out)

    # -- parsing ----------------------------------------------------------------------------------

    def _skip(self, nested: bool = True) -> None:
        if nested:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
        else:
            while self._text[self._at : self._at + 1] in (" ", "\t"):
                self._at += 1

    def _choice(self, nested: bool) -> _Node:
        parts = [self._sequence(nested)]
        while self._text[self._at : self._at + 1] == "|":
            self._at += 1
            self._skip()
            parts.append(self._sequence(nested))
        return _Node("choice", parts)

    def _sequence(self, nested: bool) -> _Node:
        parts: list[_Node] = []
        while self._at < len(self._text):
            start = self._text[self._at]
            if start == '"':
                parts.append(self._literal())
            elif start == "[":
                parts.append(self._set())
            elif start == "(":
                self._at += 1
                self._skip()
                parts.append(self._choice(nested=True))
                if self._text[self._at : self._at + 1] != ")":
                    raise ValueError(f"no ')' at {self._text[self._at : self._at + 40]!r}")
                self._at += 1
            elif name := _NAME.match(self._text, self._at):
                self._at = name.end()
                parts.append(_Node("rule", text=name[0]))
            elif start in "*+?{":
                parts.append(self._repeat(parts.pop()))
            else:
                break
            self._skip(nested)
        return _Node("sequence", parts)

    def _repeat(self, part: _Node) -> _Node:
        sign = self._text[self._at]
        if sign in "*+?":
            self._at += 1
            return _Node("repeat", [part], low=int(sign == "+"), high=1 if sign == "?" else None)
        count = _COUNT.match(self._text, self._at)
        if not count:
            raise ValueError(f"no count at {self._text[self._at : self._at + 40]!r}")
        self._at = count.end()
        low = int(count[1])
        high = low if not count[2] else int(count[3]) if count[3] else None
        if low > 2000 or (high or 0) > 2000:
            raise ValueError(f"llama.cpp does not count that far: {count[0]}")
        return _Node("repeat", [part], low=low, high=high)

    def _character(self) -> str:
        character = self._text[self._at]
        self._at += 1
        if character != "\\":
            return character
        letter = self._text[self._at]
        self._at += 1
        if letter in _HEX:
            digits = self._text[self._at : self._at + _HEX[letter]]
            self._at += len(digits)
            return chr(int(digits, 16))
        if letter not in '\\"[]-trn':
            raise ValueError(f"unknown escape \\{letter}")
        return _CONTROL.get(letter, letter)

    def _literal(self) -> _Node:
        self._at += 1
        text = ""
        while self._text[self._at] != '"':
            text += self._character()
        self._at += 1
        return _Node("text", text=text)

    def _set(self) -> _Node:
        self._at += 1
        negated = self._text[self._at] == "^"
        self._at += int(negated)
        ranges = []
        while self._text[self._at] != "]":
            low = high = ord(self._character())
            if self._text[self._at] == "-" and self._text[self._at + 1] != "]":
                self._at += 1
                high = ord(self._character())
            ranges.append((low, high))
        self._at += 1
        return _Node("set", ranges=ranges, negated=negated)

    # -- generating -------------------------------------------------------------------------------

    def _shortest_derivations(self) -> dict[str, int]:
        depths: dict[str, int] = dict.fromkeys(self.rules, _FAR)
        changed = True
        while changed:
            changed = False
            for name, node in self.rules.items():
                depth = self._depth(node, depths) + 1
                if depth < depths[name]:
                    depths[name], changed = depth, True
        return depths

    def _depth(self, node: _Node, depths: dict[str, int]) -> int:
        if node.kind == "rule":
            return depths[node.text]
        if node.kind == "repeat":
            return self._depth(node.parts[0], depths) if node.low else 0
        combine = min if node.kind == "choice" else max
        return combine((self._depth(part, depths) for part in node.parts), default=0)

    def _emit(self, node: _Node, rng: random.Random, out: list[str]) -> None:
        if node.kind == "text":
            out.append(node.text)
        elif node.kind == "set":
            out.append(_member(node, rng))
        elif node.kind == "rule":
            self._emit(self.rules[node.text], rng, out)
        elif node.kind == "sequence":
            for part in node.parts:
                self._emit(part, rng, out)
        elif node.kind == "choice":
            self._budget -= len(node.parts) > 1
            if self._budget > 0:
                part = rng.choice(node.parts)
            else:
                part = min(node.parts, key=lambda part: self._depth(part, self._depths))
            self._emit(part, rng, out)
        else:
            high = node.low + 3 if node.high is None else node.high
            count = rng.choice((node.low, min(node.low + 1, high), rng.randint(node.low, high)))
            self._budget -= 1
            for _ in range(count if self._budget > 0 else node.low):
                self._emit(node.parts[0], rng, out)


_SAMPLES = [*range(0x20, 0x7F), 0, 9, 10, 13, 0x7F, 0xE9, 0x3B1, 0x2028, 0x4E2D, 0xFFFD, 0x1F600]


def _member(node: _Node, rng: random.Random) -> str:
    def belongs(code: int) -> bool:
        return any(low <= code <= high for low, high in node.ranges) != node.negated

    if node.negated or rng.random() < 0.5:
        members = [code for code in _SAMPLES if belongs(code)]
        if members:
            return chr(rng.choice(members))
    low, high = rng.choice(node.ranges)
    code = rng.choice((low, high, rng.randint(low, high)))
    return chr(code if not 0xD800 <= code <= 0xDFFF else low)
