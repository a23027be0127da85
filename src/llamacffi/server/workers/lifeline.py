"""What a supervisor tells a worker at first, through the pipe of llamacffi.lifeline."""

from __future__ import annotations

import os

from llamacffi.lifeline import STDIN
from llamacffi.server.workers.spec import WorkerSpec
from llamacffi.server.workers.wire import from_json, to_json

__all__ = ["packed", "received"]

_SIZE_BYTES = 8


def packed(spec: WorkerSpec) -> bytes:
    """What a supervisor writes into the pipe at first."""
    contents = to_json(spec)
    return len(contents).to_bytes(_SIZE_BYTES, "big") + contents


def received() -> WorkerSpec:
    """What the supervisor wrote."""
    return from_json(_read(int.from_bytes(_read(_SIZE_BYTES), "big")))


def _read(size: int) -> bytes:
    # Without a buffer, which would want to have the bytes after these, too.
    parts = []
    while size:
        part = os.read(STDIN, size)
        if not part:
            raise SystemExit("The supervisor is gone.")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
