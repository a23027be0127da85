"""What llama.cpp's grammar parser does not check and then dies of.

It parses recursively, so deep nesting overflows the stack; `{m,n}` with n below m makes it write
repetitions until the memory is gone, and it writes out whatever is repeated (parse_sequence in
llama-grammar.cpp). The rest is checked behind its parser, in shim_grammar.cpp.
"""

from __future__ import annotations

import re

from llamacffi.errors import GrammarError

__all__ = ["check_grammar"]

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 128
MAX_REPETITIONS = 2000  # upstream's MAX_REPETITION_THRESHOLD
MAX_ELEMENTS = 2**20  # that repetitions write

_GAP = r"(?:[ \t\r\n]|#[^\r\n]*)*"
# What may hold parentheses and braces that mean nothing; then what has a meaning here.
_PARTS = re.compile(
    r"#[^\r\n]*|(?P<item>\"(?:\\.|[^\"\\])*\"|\[(?:\\.|[^\]\\])*\]|!?<[^>]*>|[a-zA-Z0-9-]+|\.)"
    rf"|(?P<open>\()|(?P<close>\))|\{{{_GAP}(?P<low>\d+){_GAP}(?P<comma>,)?{_GAP}(?P<high>\d*)",
    re.DOTALL,
)


def check_grammar(grammar: object) -> None:
    """Refuse GBNF text that would end the process.

    Raises:
        GrammarError: Naming the line.
    """
    if not isinstance(grammar, str):
        raise GrammarError(f"A grammar is GBNF text, a path or a Grammar, not {grammar!r:.80}.")
    if not grammar.strip() or "\0" in grammar:
        raise GrammarError("The grammar is empty or has a NUL character. Write GBNF rules.")
    try:
        size = len(grammar.encode())
    except UnicodeEncodeError as error:
        raise GrammarError(f"The grammar is no Unicode text: {error}.") from None
    if size > MAX_BYTES:
        raise GrammarError(f"The grammar has more than {MAX_BYTES} bytes. Make it shorter.")
    depth = elements = 0
    last = 1  # elements of the item that a repetition would repeat
    for part in _PARTS.finditer(grammar):
        if part["item"]:
            last = len(part["item"]) if part["item"][0] in '"[' else 1
        elif part["open"]:
            depth += 1
            if depth > MAX_DEPTH:
                raise GrammarError(
                    f"{_line(grammar, part)} nests more than {MAX_DEPTH} parentheses. Name some "
                    "parts as rules."
                )
        elif part["close"]:
            depth -= 1
            last = 1  # a rule of its own
        elif part["low"]:
            low, high = int(part["low"][:9]), int(part["high"][:9] or 0)
            if part["high"] and high < low:
                raise GrammarError(
                    f"{_line(grammar, part)} has {part[0]}}}: the second number must not be "
                    "smaller."
                )
            # Upstream takes a high end above this for none.
            elements += (high if low <= high <= MAX_REPETITIONS else low) * last
            if elements > MAX_ELEMENTS:
                raise GrammarError(
                    f"{_line(grammar, part)} repeats too much: all repetitions together come to "
                    f"more than {MAX_ELEMENTS} characters and rules. Repeat less, or use * and +."
                )


def _line(grammar: str, part: re.Match[str]) -> str:
    lines = re.split("\r\n|\r|\n", grammar[: part.start()])
    return f"Line {len(lines)} of the grammar"
