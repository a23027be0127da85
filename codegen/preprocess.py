"""Runs the C preprocessor over the pinned headers, or over committed declarations."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

INCLUDES = ("include", "ggml/include", "tools/mtmd")
"""Folders of the llama.cpp tree that hold its public headers."""

_INTEGERS = {
    "int8_t": "signed char",
    "uint8_t": "unsigned char",
    "int16_t": "short",
    "uint16_t": "unsigned short",
    "int32_t": "int",
    "uint32_t": "unsigned int",
    "int64_t": "long long",
    "uint64_t": "unsigned long long",
    "intptr_t": "long",
    "uintptr_t": "unsigned long",
}
# pycparser has to know the names; what they stand for does not reach the output, where cffi
# resolves them for the platform at hand.
_LIBC = {
    "stddef.h": "typedef unsigned long size_t;\n",
    "stdint.h": "".join(f"typedef {base} {name};\n" for name, base in _INTEGERS.items()),
    "stdbool.h": "typedef _Bool bool;\n",
    "stdio.h": "typedef struct FILE FILE;\n",
}
_ADVICE = re.compile(r"^// deprecated: (.*)\n([^;]*);", re.M)
# -undef hides the platform, so that the same declarations come out everywhere. __GNUC__ makes
# upstream's DEPRECATED() an attribute, which is how deprecations are recognised.
_FLAGS = ("-E", "-dD", "-nostdinc", "-undef", "-D__GNUC__=4", "-D_Noreturn=")


class CodegenError(Exception):
    """Something that the person who runs the tool has to mend."""


def preprocess(source: Path) -> str:
    """Preprocess llama.h and mtmd.h of a llama.cpp tree, keeping macros and line markers."""
    if not (source / "include" / "llama.h").is_file():
        raise CodegenError(f"{source} is not a llama.cpp tree: it has no include/llama.h")
    with tempfile.TemporaryDirectory(prefix="llamacffi-codegen-") as folder:
        fakes = Path(folder)
        for name, text in _LIBC.items():
            (fakes / name).write_text(f"#pragma once\n{text}")
        unit = fakes / "unit.c"
        unit.write_text('#include "llama.h"\n#include "mtmd.h"\n')
        paths = [fakes, *(source / include for include in INCLUDES)]
        compiler = shlex.split(os.environ.get("CC", "cc"))
        command = [*compiler, *_FLAGS, *(f"-I{path}" for path in paths), str(unit)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise CodegenError(f"{shlex.join(command)} failed:\n{run.stderr}")
    return run.stdout


def from_cdef(files: Mapping[str, str]) -> str:
    """Give committed declarations the form that ``preprocess`` returns, so that one parser serves.

    Args:
        files: Texts of ``native/cdef`` by file name, in the order of ``cdef()``.
    """
    parts = ["".join(_LIBC.values())]
    for name, text in files.items():
        attributed = _ADVICE.sub(r'\2 __attribute__((deprecated("\1")));', text)
        parts += [f'# 1 "{name}"', re.sub(r"//.*", "", attributed)]
    return "\n".join(parts)
