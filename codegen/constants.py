"""Integer constant expressions: cdef wants enumerators, array bounds and macros as numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pycparser import c_ast, c_parser

_SIZES = {
    **dict.fromkeys(("char", "int8_t", "uint8_t"), 1),
    **dict.fromkeys(("int16_t", "uint16_t"), 2),
    **dict.fromkeys(("int", "int32_t", "uint32_t", "float"), 4),
    **dict.fromkeys(("int64_t", "uint64_t", "double"), 8),
}
_BINARY: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "<<": lambda a, b: a << b,
    ">>": lambda a, b: a >> b,
    "|": lambda a, b: a | b,
    "&": lambda a, b: a & b,
    "^": lambda a, b: a ^ b,
}
_UNARY: dict[str, Callable[[int], int]] = {"-": lambda a: -a, "+": lambda a: a, "~": lambda a: ~a}
_IDENTIFIER = re.compile(r"\b[A-Za-z_]\w*\b")
_INTEGER = re.compile(r"(0[xX][0-9a-fA-F]+|\d+)[uUlL]*")


class NotConstantError(ValueError):
    """The expression is not an integer constant that this module can compute."""


def evaluate(node: c_ast.Node, names: Mapping[str, int]) -> int:
    """Compute an integer constant expression.

    Args:
        node: The expression.
        names: Values of the enumerators seen so far.

    Raises:
        NotConstantError: The expression has a part that is no integer constant.
    """
    if isinstance(node, c_ast.Constant):
        literal = _INTEGER.fullmatch(node.value)
        if literal is not None:
            octal = len(literal[1]) > 1 and literal[1].isdigit() and literal[1].startswith("0")
            return int(literal[1], 8 if octal else 0)
    elif isinstance(node, c_ast.ID) and node.name in names:
        return names[node.name]
    elif isinstance(node, c_ast.UnaryOp) and node.op in _UNARY:
        return _UNARY[node.op](evaluate(node.expr, names))
    elif isinstance(node, c_ast.UnaryOp) and node.op == "sizeof":
        base = getattr(getattr(getattr(node.expr, "type", None), "type", None), "names", [""])
        if base[-1] in _SIZES:
            return _SIZES[base[-1]]
    elif isinstance(node, c_ast.BinaryOp) and node.op in _BINARY:
        return _BINARY[node.op](evaluate(node.left, names), evaluate(node.right, names))
    raise NotConstantError(f"not an integer constant: {node}")


def evaluate_macro(name: str, bodies: Mapping[str, str]) -> str | None:
    """The integer literal that an object-like macro stands for, or None if it is something else.

    Hexadecimal stays hexadecimal, since magic numbers are read that way.
    """
    body = bodies[name].split("//")[0].strip()
    for _ in range(len(bodies)):
        expanded = _IDENTIFIER.sub(lambda match: bodies.get(match[0], match[0]), body)
        if expanded == body:
            break
        body = expanded
    literal = _INTEGER.fullmatch(body)
    if literal is not None:
        return literal[1]
    if re.search(r"[\"';{}#]|\b[A-Za-z_]", body):
        return None
    try:
        unit = c_parser.CParser().parse(f"int value = {body};")
        return str(evaluate(unit.ext[0].init, {}))
    except (c_parser.ParseError, NotConstantError):
        return None
