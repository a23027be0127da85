"""The log bridge: llama.cpp's messages go to the logger "llamacffi.native".

The library keeps its messages in a bounded queue (shim.cpp) and Python reads them after a call.
No callback enters Python from native code: libffi closures fail where writable memory may not be
executed, and crash after fork().
"""

from __future__ import annotations

import logging
import threading
from typing import Any

__all__ = ["NativeLog", "logger"]

logger = logging.getLogger("llamacffi.native")

# enum ggml_log_level: NONE 0, DEBUG 1, INFO 2, WARN 3, ERROR 4
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_LINE_BYTES = 8192


class NativeLog:
    """The message queue of one library."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self._lib = lib
        self._ffi = ffi
        self._lock = threading.Lock()
        self._level = ffi.new("int32_t *")
        self._text = ffi.new("char[]", _LINE_BYTES)
        self._pending = lib.llamacffi_log_pending()
        self.follow_level()

    def follow_level(self) -> None:
        """Tell the library which messages nobody reads, so that it does not keep them."""
        wanted = logger.getEffectiveLevel()
        level = next((native for native, python in _LEVELS.items() if python >= wanted), 5)
        self._lib.llamacffi_log_set_level(level)

    @property
    def pending(self) -> int:
        """How many lines wait."""
        return int(self._pending[0])

    def drain(self) -> None:
        """Hand what has come since the last time to the logger."""
        if not self._pending[0]:
            return
        with self._lock:
            while (
                length := self._lib.llamacffi_log_read(self._level, self._text, _LINE_BYTES)
            ) >= 0:
                level = _LEVELS.get(self._level[0], logging.INFO)
                if logger.isEnabledFor(level):
                    text = bytes(self._ffi.buffer(self._text, length)).decode("utf-8", "replace")
                    logger.log(level, "%s", text)
