"""The model: what a C header declares, as plain data, read from preprocessed text by pycparser."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

from pycparser import c_ast, c_generator, c_parser

from codegen.constants import evaluate, evaluate_macro

LINE_LENGTH = 100
_GENERATOR = c_generator.CGenerator()

_DEFINE = re.compile(r"^#\s*define\s+(\w+)[ \t]+(\S.*)$")
_MARKER = re.compile(r'^#\s*(?:line\s+)?\d+\s+"([^"]*)"')
_STRING = r'"(?:[^"\\]|\\.)*"'
_ATTRIBUTE = re.compile(
    rf'__attribute__\s*\(\((?:{_STRING}|[^()"]|\((?:{_STRING}|[^()"])*\))*\)\)', re.S
)
_DEPRECATED = re.compile(rf"\bdeprecated\s*\(\s*({_STRING})")
_FUNCTION_NAME = re.compile(r"(\w+)\s*\(")


@dataclass(frozen=True)
class Declaration:
    """One top-level declaration, written as cffi's ``cdef`` accepts it."""

    kind: str
    """function, struct, enum, typedef, macro, or opaque (``struct x;``)."""
    name: str
    header: str
    text: str
    members: tuple[tuple[str, str], ...] = ()
    """Fields with their C types, or enumerators with their values."""
    needs: frozenset[tuple[str, str]] = frozenset()
    """(kind, name) of the types it mentions; ``opaque`` where a pointer to the struct is enough."""
    deprecated: str = ""
    """Upstream's advice, where the function is deprecated."""


def parse(preprocessed: str) -> list[Declaration]:
    """Read declarations from the output of ``cc -E -dD``, each once, in an order C accepts."""
    source, deprecated = _strip_attributes(preprocessed)
    code, macros = _split_macros(source)
    unit = _Unit(deprecated)
    for node in c_parser.CParser().parse(code).ext:
        unit.add(node)
    bodies = {name: body for name, (_, body) in macros.items()}
    for name, (header, _) in macros.items():
        literal = evaluate_macro(name, bodies)
        if literal is not None:
            text = f"#define {name} {literal}"
            unit.found["macro", name] = Declaration("macro", name, header, text)
    return list(unit.found.values())


def _strip_attributes(text: str) -> tuple[str, dict[str, str]]:
    """Remove ``__attribute__((...))``; return upstream's advice on deprecated functions apart."""
    deprecated = {}
    for match in _ATTRIBUTE.finditer(text):
        hint = _DEPRECATED.search(match[0])
        if hint is not None:
            # The attribute follows its declarator: the function is the first name before a
            # parenthesis since the last declaration ended.
            start = text.rfind(";", 0, match.start()) + 1
            name = _FUNCTION_NAME.search(_ATTRIBUTE.sub("", text[start : match.start()]))
            if name is not None:
                deprecated[name[1]] = hint[1].strip('"')
    return _ATTRIBUTE.sub("", text), deprecated


def _split_macros(text: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """Separate object-like macros, as name: (header, body), from the code pycparser can read."""
    code, macros, header = [], {}, ""
    for line in text.splitlines():
        marker = _MARKER.match(line)
        if marker is not None:
            header = PurePath(marker[1]).name
        define = _DEFINE.match(line)
        if define is not None:
            macros[define[1]] = (header, define[2].strip())
        code.append(line if marker is not None or not line.startswith("#") else "")
    return "\n".join(code), macros


@dataclass
class _Unit:
    """Collects the declarations of a translation unit."""

    deprecated: dict[str, str]
    found: dict[tuple[str, str], Declaration] = field(default_factory=dict)
    enumerators: dict[str, int] = field(default_factory=dict)

    def add(self, node: c_ast.Node) -> None:
        header = PurePath(node.coord.file).name if node.coord else ""
        if isinstance(node, c_ast.Typedef):
            self._typedef(node, header)
        elif isinstance(node, c_ast.Decl):
            self._declaration(node, header)

    def _declaration(self, node: c_ast.Decl, header: str) -> None:
        if isinstance(node.type, c_ast.Enum):
            self._enum(node.type, header)
        elif isinstance(node.type, (c_ast.Struct, c_ast.Union)):
            self._struct(node.type, header)
        elif isinstance(node.type, c_ast.FuncDecl):
            node = copy.copy(node)
            node.storage, node.funcspec = [], []
            text = _function_text(node)
            hint = self.deprecated.get(node.name, "")
            self._keep("function", node.name, header, text, needs=_needs(node.type), hint=hint)
        # Anything else is a `static const` object, which cffi cannot declare and none of us needs.

    def _typedef(self, node: c_ast.Typedef, header: str) -> None:
        base = node.type.type if isinstance(node.type, c_ast.TypeDecl) else None
        members: tuple[tuple[str, str], ...] = ()
        if isinstance(base, (c_ast.Struct, c_ast.Union)) and base.decls is not None:
            if base.name is not None:
                # `typedef struct x {...} x;` is kept as its two halves.
                self._struct(base, header)
                text = f"typedef {_keyword(base)} {base.name} {node.name};"
                needs = frozenset({("struct", base.name)})
                self._keep("typedef", node.name, header, text, needs=needs)
                return
            self._fold_dimensions(base)
            members = tuple(_fields(base))
            text = f"typedef {_struct_text(base)} {node.name};"
        elif isinstance(base, c_ast.Enum) and base.values is not None:
            self._enum(base, header, typedef=node.name)
            return
        else:
            self._fold_dimensions(node)
            text = f"{_GENERATOR.visit(node)};"
        self._keep("typedef", node.name, header, text, members, _needs(node.type))

    def _enum(self, node: c_ast.Enum, header: str, typedef: str = "") -> None:
        if node.values is None:
            return
        members, value = [], -1
        for item in node.values.enumerators:
            value = value + 1 if item.value is None else evaluate(item.value, self.enumerators)
            self.enumerators[item.name] = value
            members.append((item.name, str(value)))
        width = max(len(name) for name, _ in members)
        body = "\n".join(f"    {name:<{width}} = {number}," for name, number in members)
        head = f"typedef enum {node.name or ''}".rstrip() if typedef else f"enum {node.name}"
        text = f"{head} {{\n{body}\n}}{' ' if typedef else ''}{typedef};"
        kind = "typedef" if typedef else "enum"
        self._keep(kind, typedef or node.name, header, text, tuple(members))

    def _struct(self, node: c_ast.Struct | c_ast.Union, header: str) -> None:
        if node.decls is None:
            self._keep("opaque", node.name, header, f"{_keyword(node)} {node.name};")
            return
        self._fold_dimensions(node)
        members = tuple(_fields(node))
        needs = frozenset(need for item in node.decls for need in _needs(item.type))
        self._keep("struct", node.name, header, f"{_struct_text(node)};", members, needs)

    def _keep(
        self,
        kind: str,
        name: str,
        header: str,
        text: str,
        members: tuple[tuple[str, str], ...] = (),
        needs: frozenset[tuple[str, str]] = frozenset(),
        hint: str = "",
    ) -> None:
        # The first one wins: C allows a typedef to be repeated, cdef does not.
        declaration = Declaration(kind, name, header, text, members, needs, hint)
        self.found.setdefault((kind, name), declaration)

    def _fold_dimensions(self, node: c_ast.Node) -> None:
        """Replace array bounds by numbers: cdef refuses ``sizeof`` and arithmetic there."""
        for _, child in node.children():
            if isinstance(child, c_ast.ArrayDecl) and child.dim is not None:
                child.dim = c_ast.Constant("int", str(evaluate(child.dim, self.enumerators)))
            self._fold_dimensions(child)


def _keyword(node: c_ast.Struct | c_ast.Union) -> str:
    return "struct" if isinstance(node, c_ast.Struct) else "union"


def _inner(node: c_ast.Decl) -> c_ast.Struct | c_ast.Union | None:
    """The struct or union that a field spells out in place, if it does."""
    base = node.type.type if isinstance(node.type, c_ast.TypeDecl) else node.type
    spelled_out = isinstance(base, (c_ast.Struct, c_ast.Union)) and base.decls is not None
    return base if spelled_out else None


def _fields(node: c_ast.Struct | c_ast.Union) -> Iterator[tuple[str, str]]:
    """Fields by name; those of anonymous members count as the struct's own, as in C."""
    for item in node.decls:
        inner = _inner(item)
        if item.name is None and inner is not None:
            yield from _fields(inner)
        elif inner is not None:
            yield item.name, " ".join(_struct_text(inner).split())
        else:
            yield item.name, _GENERATOR.visit(item)


def _struct_text(node: c_ast.Struct | c_ast.Union, indent: str = "") -> str:
    lines = []
    for item in node.decls:
        inner = _inner(item)
        if inner is None:
            lines.append(f"{indent}    {_GENERATOR.visit(item)};")
        else:
            name = f" {item.name}" if item.name else ""
            lines.append(f"{indent}    {_struct_text(inner, indent + '    ')}{name};")
    head = f"{_keyword(node)} {node.name or ''}".rstrip()
    return "\n".join([f"{head} {{", *lines, f"{indent}}}"])


def _function_text(node: c_ast.Decl) -> str:
    text: str = _GENERATOR.visit(node)
    if len(text) >= LINE_LENGTH and node.type.args is not None:
        parameters = ",\n    ".join(_GENERATOR.visit(item) for item in node.type.args.params)
        text = f"{text[: text.index('(')]}(\n    {parameters})"
    return f"{text};"


def _needs(node: c_ast.Node, behind_pointer: bool = False) -> frozenset[tuple[str, str]]:
    """Types that a declaration mentions."""
    if isinstance(node, (c_ast.Struct, c_ast.Union)):
        if node.decls is not None:
            return frozenset(need for item in node.decls for need in _needs(item.type))
        return frozenset({("opaque" if behind_pointer else "struct", node.name)})
    if isinstance(node, c_ast.Enum):
        return frozenset({("enum", node.name)})
    if isinstance(node, c_ast.IdentifierType):
        return frozenset(("typedef", name) for name in node.names)
    # A function pointer's parameters and result are passed by value again.
    behind = isinstance(node, c_ast.PtrDecl) or (
        behind_pointer and not isinstance(node, c_ast.FuncDecl)
    )
    return frozenset(need for _, child in node.children() for need in _needs(child, behind))
