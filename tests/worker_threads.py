"""Running coroutines in tests, and looking for threads that they leave behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

HANG_SECONDS = 60.0  # longer than anything takes here


def workers() -> list[threading.Thread]:
    """The worker threads that are alive."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("llamacffi")]


def no_worker_left() -> None:
    """Wait for the threads of streams that were dropped, which nobody else waits for."""
    deadline = time.monotonic() + HANG_SECONDS
    while workers() and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.005)
    assert workers() == []


def in_loop(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in an event loop of its own; a hang is an error."""

    async def bounded() -> T:
        return await asyncio.wait_for(main(), HANG_SECONDS)

    return asyncio.run(bounded())
