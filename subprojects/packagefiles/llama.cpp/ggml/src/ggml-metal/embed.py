"""Write a Metal kernel file as upstream embeds it: a source without includes, and assembly.

Metal compiles the kernels at run time, from text in the library between two symbols per file. The
text has to stand alone: each header of llama.cpp is put in where it is first included, system
headers stay. Upstream's CMake does so with cat and sed for a fixed list of headers.

Usage: embed.py KERNEL.metal OUTPUT.metal OUTPUT.s DEPFILE
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

INCLUDE = re.compile(r'\s*#\s*include\s+"([^"]+)"')
# Stands before the include of ggml-common.h that is for a compiler with files.
EMBEDDED_COMMON = "__embed_ggml-common.h__"
ONCE = re.compile(r"\s*#\s*pragma\s+once\b")


def find(name: str, kernel: Path) -> Path:
    """The header of that name: beside the kernel, in ggml-metal/, or in ggml's src/."""
    for folder in (kernel.parent, kernel.parent.parent, kernel.parent.parent.parent):
        if (folder / name).is_file():
            return folder / name
    sys.exit(f"{kernel.name} includes {name!r}, which is nowhere in {kernel.parent.parent.parent}")


def inlined(path: Path, kernel: Path, used: list[Path]) -> list[str]:
    """The lines of a file with its includes in their places; `used` collects the files read."""
    used.append(path)
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        include = INCLUDE.match(line)
        name = include.group(1) if include else None
        if line.strip() == EMBEDDED_COMMON:
            name = "ggml-common.h"
        if name is not None:
            header = find(name, kernel)
            if header not in used:
                lines += inlined(header, kernel, used)
        elif not ONCE.match(line):
            lines.append(line)
    return lines


def assembly(kernel: Path, text: Path) -> str:
    """What puts the text between the symbols that ggml-metal-device.m declares."""
    # The underscore before is how a C name is spelled on macOS. The section's name has room for 16
    # characters, so all kernels share it.
    symbol = f"_ggml_metallib_{kernel.stem}"
    return f"""\
.section __DATA,__ggml_metallib
.globl {symbol}_start
{symbol}_start:
.incbin "{text.resolve().as_posix()}"
.globl {symbol}_end
{symbol}_end:
"""


def main(kernel: Path, text: Path, assembler: Path, dependencies: Path) -> None:
    """Write the three files for a kernel."""
    used: list[Path] = []
    text.write_text("\n".join(inlined(kernel, kernel, used)) + "\n", encoding="utf-8")
    assembler.write_text(assembly(kernel, text), encoding="utf-8")
    names = " ".join(path.as_posix().replace(" ", r"\ ") for path in used)
    # ninja knows the output by the very name that it gave.
    dependencies.write_text(f"{text.as_posix()}: {names}\n", encoding="utf-8")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:5]))
