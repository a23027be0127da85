"""The third lock of the border: a library's own table of sizes, offsets and constants.

ABI mode checks nothing by itself: with other declarations than the library was compiled from,
calls read and write the wrong bytes in silence. So every library carries the compiler's view of
each declared struct and constant, and it is compared with cffi's before the first real call.
"""

from __future__ import annotations

from typing import Any

__all__ = ["differences"]


def differences(ffi: Any, lib: Any) -> list[str]:
    """Compare the library's layout table with the declarations.

    Returns:
        One line per difference, naming both sides; empty when all agree.
    """
    count = ffi.new("int32_t *")
    rows = lib.llamacffi_layout(count)
    found: list[str] = []
    for row in ffi.unpack(rows, count[0]):
        name = ffi.string(row.name).decode()
        field = ffi.string(row.field).decode() if row.field else None
        try:
            line = _difference(ffi, lib, row, name, field)
        except (ffi.error, AttributeError, KeyError) as error:
            line = f"{name}{'.' + field if field else ''}: not declared here ({error})"
        if line is not None:
            found.append(line)
    return found


def _difference(ffi: Any, lib: Any, row: Any, name: str, field: str | None) -> str | None:
    if field is not None:
        offset = ffi.offsetof(name, field)
        size = ffi.sizeof(dict(ffi.typeof(name).fields)[field].type) if field else 0
        if (offset, size) != (row.offset, row.size):
            return (
                f"{name}.{field}: the library has {row.size} bytes at offset {row.offset}, "
                f"the declarations {size} bytes at offset {offset}"
            )
        return None
    what, mine = ("value", getattr(lib, name)) if row.offset < 0 else ("size", ffi.sizeof(name))
    if mine != row.size:
        return f"{name}: the library has {what} {row.size}, the declarations {mine}"
    return None
