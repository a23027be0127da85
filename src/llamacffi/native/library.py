"""Opening a library: once per path, verified before the first call, kept for the process's life."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from llamacffi.errors import (
    BackendUnavailableError,
    LibraryMismatchError,
    NativeError,
    RemoteDeviceError,
)
from llamacffi.native.elf import missing_bytes
from llamacffi.native.handle import Handle
from llamacffi.native.layout import differences
from llamacffi.native.logs import NativeLog

__all__ = ["Library", "LibraryInfo", "is_open", "open_library", "read_info"]

# LLAMACFFI_ERROR_*: after these the object must not be used again.
ASSERTION, REMOTE, REMOTE_ASSERTION = 2, 4, 5
UNUSABLE = (ASSERTION, REMOTE, REMOTE_ASSERTION)
MAX_DIFFERENCES_SHOWN = 8


@dataclass(frozen=True)
class LibraryInfo:
    """What is known of a library file without opening it: from the .json beside it.

    Attributes:
        path: The shared library.
        backend: The backend it was built for, e.g. "cpu".
        variant: The instruction set of its CPU part, e.g. "x86-64-v3"; "" where unknown.
        commit: The llama.cpp commit; "" where unknown.
        features: What the processor must have, by archspec's names.
    """

    path: Path
    backend: str = ""
    variant: str = ""
    commit: str = ""
    features: frozenset[str] = field(default_factory=frozenset)


def read_info(path: Path) -> LibraryInfo:
    """Read the description beside a library; a library without one is taken on trust."""
    try:
        described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return LibraryInfo(
            path,
            str(described.get("backend") or ""),
            str(described.get("variant") or ""),
            str(described.get("commit") or ""),
            frozenset(str(name) for name in described.get("features", ()) if name),
        )
    except (OSError, ValueError, AttributeError, TypeError):  # not there, or not what we write
        return LibraryInfo(path)


class Library:
    """One opened llama.cpp library.

    Attributes:
        path: Where it was opened from.
        ffi: The cffi module's FFI, one for all libraries.
        lib: The functions. The object must live as long as anything made with it: dropping the
            last reference unmaps the code.
        log: Its message queue.
        commit: The llama.cpp commit it was built from.
    """

    def __init__(self, path: Path) -> None:
        from llamacffi.native import _llama  # 10 ms, and only where a library is really opened

        self.path = path
        self.ffi: Any = _llama.ffi
        # Never unmapped: at the interpreter's exit a thread of ggml may still be inside.
        flags = self.ffi.RTLD_NOW | self.ffi.RTLD_LOCAL | getattr(self.ffi, "RTLD_NODELETE", 0)
        try:
            absent = missing_bytes(path)
            if absent:
                raise BackendUnavailableError(
                    f"{path.name} is cut short: its last {absent} bytes are missing. Reinstall the "
                    "package that brought it."
                )
            self.lib: Any = self.ffi.dlopen(str(path), flags)
        except OSError as failure:
            raise BackendUnavailableError(
                f"{path.name} could not be opened: {failure}. Install what the loader names as "
                "missing, or choose another backend: llamacffi.backends() lists them."
            ) from None
        self._verify()
        error = self.new_error()
        self.lib.llamacffi_init(error)
        self.log = NativeLog(self.ffi, self.lib)
        self.check(error, f"Initialising {path.name}")

    def __repr__(self) -> str:
        return f"Library({str(self.path)!r})"

    def _verify(self) -> None:
        try:
            version = self.lib.llamacffi_shim_version()
            self.commit: str = self.ffi.string(self.lib.llamacffi_commit()).decode()
            found = differences(self.ffi, self.lib)
        except (AttributeError, self.ffi.error) as error:
            raise LibraryMismatchError(
                f"{self.path.name} is not a llamacffi library: {error}. A plain libllama cannot be "
                "used; build it with this project's Meson files (see docs/building.md)."
            ) from None
        expected = self.lib.LLAMACFFI_SHIM_VERSION
        if version != expected:
            found.insert(0, f"the library's shim has version {version}, this package's {expected}")
        if self.commit != declared_commit():
            found.insert(0, "the llama.cpp commits differ")
        if found:
            more = len(found) - MAX_DIFFERENCES_SHOWN
            lines = found[:MAX_DIFFERENCES_SHOWN] + ([f"and {more} more"] if more > 0 else [])
            raise LibraryMismatchError(
                f"{self.path.name} (llama.cpp {self.commit}) does not match the declarations of "
                f"this package (llama.cpp {declared_commit()}): " + "; ".join(lines) + ". Install "
                "the backend's package of the same version as llamacffi."
            )

    def new_error(self) -> Any:
        """A `struct llamacffi_error *` for guarded calls."""
        return self.ffi.new("struct llamacffi_error *")

    def message(self, error: Any) -> str:
        """The text in an error struct: what failed, and the warnings logged meanwhile."""
        return str(self.ffi.string(error.message).decode("utf-8", "replace")).strip()

    def check(self, error: Any, asked: str, handle: Handle | None = None) -> None:
        """Raise if a guarded call reported a failure.

        Args:
            error: The struct that the call filled.
            asked: What was tried, for the message.
            handle: The object it was tried on; given up after a failed assertion.

        Raises:
            NativeError: With llama.cpp's own words.
            RemoteDeviceError: A server that the object needs is lost.
        """
        if error.kind:
            self.fail(error, asked, handle)

    def check_servers(self, error: Any, asked: str, handle: Handle | None = None) -> None:
        """As check(), where other failures are the caller's to tell."""
        if error.kind in (REMOTE, REMOTE_ASSERTION):
            self.fail(error, asked, handle)

    def give_up(self, error: Any, handle: Handle) -> None:
        """Have an object refused from now on if a guarded call left it unusable."""
        if error.kind in (ASSERTION, REMOTE_ASSERTION):
            handle.give_up(self.message(error))
        if error.kind in (REMOTE, REMOTE_ASSERTION):
            handle.lose(self.message(error))

    def fail(self, error: Any, asked: str, handle: Handle | None = None) -> NoReturn:
        """Raise the failure that a guarded call reported; see check()."""
        self.log.drain()
        message = self.message(error)
        if handle is not None:
            self.give_up(error, handle)
        if error.kind in (REMOTE, REMOTE_ASSERTION):
            raise RemoteDeviceError(
                f"{asked} failed: {message}. The model is given up: close it, and load it again "
                "when the server is back."
            )
        raise NativeError(f"{asked} failed inside llama.cpp: {message}")


_libraries: dict[Path, Library] = {}
_libraries_lock = threading.Lock()


def open_library(path: Path) -> Library:
    """Open a library, or return the one opened before from the same file.

    Raises:
        BackendUnavailableError: The file is missing or the system's loader refuses it.
        LibraryMismatchError: It was built from other sources than this package's declarations.
    """
    real = path.resolve()
    with _libraries_lock:
        library = _libraries.get(real)
        if library is None:
            library = _libraries[real] = Library(real)
        return library


def is_open(path: Path) -> bool:
    """Whether this process has opened the library."""
    with _libraries_lock:
        return path.resolve() in _libraries


def declared_commit() -> str:
    """The llama.cpp commit that this package's declarations were generated from."""
    from llamacffi.native import _llama

    return str(_llama.COMMIT)
