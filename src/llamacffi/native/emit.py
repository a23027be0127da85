"""Build step: turn the committed declarations into the out-of-line cffi module _llama.py.

Usage: emit.py OUTPUT DECLARATIONS...

Out-of-line because parsing the declarations at every import takes a quarter of a second; ABI mode
(no C source) because one module then serves every library, whichever backend it holds.
"""

import re
import sys
from pathlib import Path

from cffi import FFI


def declarations(path: Path) -> str:
    """The part of a header that cffi is to read."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"/\* cffi: skip \*/.*?/\* cffi: end skip \*/", "", text, flags=re.DOTALL)
    return re.sub(r"\bLLAMACFFI_API\b", "", text)


def commit(text: str) -> str:
    """The llama.cpp commit that the banner of a generated header names."""
    match = re.search(r"Generated from llama\.cpp ([0-9a-f]{40})", text)
    if match is None:
        raise SystemExit("The declarations do not name their llama.cpp commit.")
    return match.group(1)


def main(output: str, *headers: str) -> None:
    """Write the module."""
    ffi = FFI()
    for header in headers:
        ffi.cdef(declarations(Path(header)))
    ffi.set_source("llamacffi.native._llama", None)
    ffi.emit_python_code(output)
    with Path(output).open("a", encoding="utf-8") as module:
        module.write(f"COMMIT = {commit(Path(headers[0]).read_text(encoding='utf-8'))!r}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
