"""Lock 2 of the native border: a C compiler finds the declarations equal to the real headers.

The declarations go through cffi's API mode, whose C uses each of them beside the header's own.
That alone lets wrong integers pass: API mode adapts to their sizes, and compares layouts and
values only when the module is loaded. So the same C also repeats every prototype and typedef, which
C allows only if it is the same, and asserts what cffi computed in ABI mode: sizes, offsets, field
types, enumerators and macros. No code is made, linked or run.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path

import cffi
import pytest

from codegen.declarations import parse
from codegen.pin import find_source
from codegen.preprocess import INCLUDES, CodegenError, from_cdef
from codegen.render import CDEF
from codegen.selection import OUTPUTS

ROOT = Path(__file__).resolve().parent.parent
PREAMBLE = """\
#include "llama.h"
#include "mtmd.h"
"""
WARNINGS = (
    "-Wno-deprecated-declarations",
    "-Werror=incompatible-pointer-types",
    "-Werror=int-conversion",
    "-Werror=implicit-function-declaration",
    "-Werror=overflow",
)


@pytest.fixture(scope="module")
def source() -> Path:
    try:
        return find_source(ROOT)
    except CodegenError as error:
        pytest.fail(str(error))


def committed() -> dict[str, str]:
    return {name: (ROOT / CDEF / name).read_text() for name in OUTPUTS}


def assertions(files: dict[str, str]) -> str:
    """C that does not compile unless cffi's view of every declaration is the compiler's."""
    ffi = cffi.FFI()
    for text in files.values():
        ffi.cdef(text)
    lines = []
    for item in parse(from_cdef(files)):
        if item.header not in files:
            continue
        if item.kind in {"function", "typedef"}:
            lines.append(item.text)
        elif item.kind == "macro":
            lines.append(equal(item.name, item.text.split()[2]))
        elif item.kind == "enum":
            lines += [equal(name, value) for name, value in item.members]
        elif item.kind == "struct":
            lines += struct_assertions(ffi, f"struct {item.name}")
    return "\n".join(lines) + "\n"


def struct_assertions(ffi: cffi.FFI, struct: str) -> list[str]:
    lines = [equal(f"sizeof({struct})", str(ffi.sizeof(struct)))]
    pending = [("", ffi.typeof(struct), 0)]
    while pending:
        prefix, ctype, base = pending.pop()
        for name, member in ctype.fields:
            path, offset = f"{prefix}{name}", base + member.offset
            if "$" in member.type.cname:  # spelled out in place: anonymous, or a struct's own field
                pending.append((f"{path}." if name else prefix, member.type, offset))
            else:
                lines.append(equal(f"offsetof({struct}, {path})", str(offset)))
                if member.type.kind in {"primitive", "enum"}:
                    # The others are compared by API mode's C; here, cffi has forgotten `const`.
                    lines.append(same_type(f"(({struct} *)0)->{path}", member.type.cname))
    return lines


def equal(expression: str, value: str) -> str:
    return f'_Static_assert({expression} == {value}, "{expression}");'


def same_type(expression: str, ctype: str) -> str:
    compatible = f"__builtin_types_compatible_p(__typeof__({expression}), {ctype})"
    return f'_Static_assert({compatible}, "{expression}");'


def compile_against_headers(
    files: dict[str, str], source: Path, folder: Path
) -> subprocess.CompletedProcess[str]:
    ffi = cffi.FFI()
    for text in files.values():
        ffi.cdef(text)
    ffi.set_source("_declarations", PREAMBLE)
    unit = folder / "_declarations.c"
    ffi.emit_c_code(str(unit))
    with unit.open("a") as file:
        file.write(assertions(files))
    includes = [source / include for include in INCLUDES]
    includes.append(Path(sysconfig.get_path("include")))
    command = [
        *shlex.split(os.environ.get("CC", "cc")),
        *("-fsyntax-only", *WARNINGS),
        *(f"-I{path}" for path in includes),
        str(unit),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_compiler_agrees_with_the_declarations(source: Path, tmp_path: Path) -> None:
    run = compile_against_headers(committed(), source, tmp_path)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param("    float *embd;\n", "    double *embd;\n", id="pointer field"),
        pytest.param("    int32_t n_tokens;\n", "    int64_t n_tokens;\n", id="wider field"),
        pytest.param("    uint32_t n_ctx;\n", "    int32_t n_ctx;\n", id="sign of a field"),
        pytest.param("    bool vocab_only;\n", "", id="missing field"),
        pytest.param("val_str[128];", "val_str[64];", id="field of an anonymous union"),
        pytest.param("SINGLE_WORD  = 512,", "SINGLE_WORD  = 513,", id="enumerator"),
        pytest.param("SESSION_VERSION 10", "SESSION_VERSION 11", id="macro"),
        pytest.param("int64_t llama_time_us(", "int32_t llama_time_us(", id="result"),
        pytest.param("(float p, size_t min_keep)", "(double p, size_t min_keep)", id="parameter"),
        pytest.param("int32_t llama_pos;", "int64_t llama_pos;", id="typedef"),
    ],
)
def test_a_wrong_declaration_is_refused(
    right: str, wrong: str, source: Path, tmp_path: Path
) -> None:
    files = committed()
    assert right in files["llama.h"]
    files["llama.h"] = files["llama.h"].replace(right, wrong, 1)
    run = compile_against_headers(files, source, tmp_path)
    assert run.returncode != 0
    assert "error:" in run.stderr
