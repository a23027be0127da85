"""What llama.cpp's grammar parser does not check and then dies of.

It parses recursively, so deep nesting overflows the stack; and `{m,n}` with n below m makes it
write repetitions until the memory is gone (parse_sequence in llama-grammar.cpp). Everything else
it refuses itself.
"""

from __future__ import annotations

import re

from llamacffi.errors import GrammarError

__all__ = ["check_grammar"]

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 256

# What may hold parentheses and braces that mean nothing; then what has a meaning here.
_PARTS = re.compile(
    r'#[^\n]*|"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|(?P<open>\()|(?P<close>\))'
    r"|\{\s*(?P<low>\d+)\s*,\s*(?P<high>\d+)\s*\}",
    re.DOTALL,
)


def check_grammar(grammar: str) -> None:
    """Refuse GBNF text that would end the process.

    Raises:
        GrammarError: Naming the line.
    """
    if not grammar.strip() or "\0" in grammar:
        raise GrammarError("The grammar is empty or has a NUL character. Write GBNF rules.")
    if len(grammar.encode()) > MAX_BYTES:
        raise GrammarError(f"The grammar has more than {MAX_BYTES} bytes. Make it shorter.")
    depth = 0
    for part in _PARTS.finditer(grammar):
        line = grammar.count("\n", 0, part.start()) + 1 if part.lastgroup else 0
        if part["open"]:
            depth += 1
            if depth > MAX_DEPTH:
                raise GrammarError(
                    f"Line {line} of the grammar nests more than {MAX_DEPTH} parentheses. Name "
                    "some parts as rules."
                )
        elif part["close"]:
            depth -= 1
        elif part["low"] and int(part["high"]) < int(part["low"]):
            raise GrammarError(
                f"Line {line} of the grammar has {part[0]}: the second number must not be smaller."
            )
