"""Write C functions in place of the kernels that a sample (-Dgpu_sample=true) leaves out.

They have the names that the compiled objects call and that nothing defines. Calling one fails an
assertion, which llamacffi reports as an error.

Usage: placeholders.py NM ARCHIVE OUTPUT
"""

import subprocess
import sys
from pathlib import Path

# The C++ library's own: std::, new and delete, type information, virtual tables.
STANDARD = ("_ZS", "_ZNS", "_ZNKS", "_Zn", "_Zd", "_ZT", "_ZN9__gnu_cxx")


def missing(nm: str, archive: str) -> list[str]:
    """C++ functions that the archive calls and does not define, sorted."""
    listed = subprocess.run([nm, "-P", archive], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in listed.splitlines() if len(line.split()) > 1]
    defined = {name for name, kind, *_ in rows if kind != "U"}
    called = {name for name, kind, *_ in rows if kind == "U" and name.startswith("_Z")}
    return sorted(name for name in called - defined if not name.startswith(STANDARD))


if __name__ == "__main__":
    nm, archive, output = sys.argv[1:]
    text = "This library has only a sample of the GPU kernels (-Dgpu_sample=true)."
    lines = ['#include "ggml.h"']
    lines += [f'void {name}(void) {{ GGML_ABORT("{text}"); }}' for name in missing(nm, archive)]
    Path(output).write_text("\n".join(lines) + "\n", encoding="utf-8")
