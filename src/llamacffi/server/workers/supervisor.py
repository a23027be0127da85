"""Keeps the workers alive."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from llamacffi.server.workers.backoff import Backoff
from llamacffi.server.workers.process import End, Phase, WorkerProcess
from llamacffi.server.workers.spec import WorkerSpec, WorkersPolicy
from llamacffi.server.workers.worker import LOAD_FAILED

__all__ = ["Supervisor", "Worker"]

FOLDER_BYTES_MAX = 80  # the path of a socket may have some 100
_log = logging.getLogger("llamacffi.server")


class Worker:
    """A worker, whose process may change.

    Attributes:
        number: Which one it is, from 1.
        process: The process it has now, or had last.
        ends: How often it ended, by reason.
        settled: Set when its first process was ready or has ended.
        backoff: How long it has to wait for another process.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: WorkerProcess | None = None
        self.ends: Counter[str] = Counter()
        self.settled = asyncio.Event()
        self.backoff = Backoff()

    @property
    def phase(self) -> Phase:
        """How it is."""
        return Phase.ENDED if self.process is None else self.process.phase

    @property
    def failing(self) -> bool:
        """Whether it ends again and again."""
        return self.backoff.looping and self.phase is not Phase.READY


class Supervisor:
    """Starts workers, looks after them, replaces those that end, and stops them.

    Args:
        spec: What they serve.
        policy: How many, and how they are kept.
        on_failure: Called with the reason when the first one cannot load the model.

    Attributes:
        workers: The workers.
        failure: Why there will be none; None if all is well.
    """

    def __init__(
        self, spec: WorkerSpec, policy: WorkersPolicy, on_failure: Callable[[str], None]
    ) -> None:
        self.workers = [Worker(number + 1) for number in range(policy.n_workers)]
        self.failure: str | None = None
        self._spec = spec
        self._policy = policy
        self._on_failure = on_failure
        self._stopping = asyncio.Event()
        self._loaded = False
        self._generations = count(1)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._running: asyncio.Task[None] | None = None

    def processes(self, *phases: Phase) -> list[WorkerProcess]:
        """The processes that are in one of these phases."""
        return [
            worker.process
            for worker in self.workers
            if worker.process is not None and worker.process.phase in phases
        ]

    def start(self) -> None:
        """Begin."""
        self._folder = _private_folder()
        self._running = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Let the workers finish what they answer, and end."""
        self._stopping.set()
        for worker in self.workers:
            if worker.process is not None:
                worker.process.stop()

    async def close(self) -> None:
        """Wait until they have ended."""
        self.stop()
        if self._running is not None:
            await self._running
        if self._folder is not None:
            self._folder.cleanup()

    async def _run(self) -> None:
        # The first one downloads the model where that is needed, and finds out whether it loads.
        first, *others = self.workers
        tasks = [asyncio.create_task(self._keep(first))]
        await first.settled.wait()
        if self.failure is None:
            tasks += (asyncio.create_task(self._keep(worker)) for worker in others)
        await asyncio.gather(*tasks)

    async def _keep(self, worker: Worker) -> None:
        try:
            await self._replace_always(worker)
        finally:
            worker.settled.set()  # whatever happened, the others need not wait

    async def _replace_always(self, worker: Worker) -> None:
        while not self._stopping.is_set():
            try:
                lived, end = await self._one_life(worker)
            except OSError as error:
                _log.error("worker %s cannot be started: %s", worker.number, error)
                lived, end = 0.0, End(1)
            worker.settled.set()
            if self._stopping.is_set():
                return
            worker.ends[end.reason] += 1
            pause = worker.backoff.ended(lived)
            if self._cannot_load(end):
                return
            _log.error(
                "worker %s ended (%s) after %.1f seconds%s; it is replaced in %g seconds",
                worker.number, end.reason, lived,
                ": it does so again and again" if worker.backoff.looping else "", pause,
            )  # fmt: skip
            await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _one_life(self, worker: Worker) -> tuple[float, End]:
        """For how long it was ready, and how it ended."""
        assert self._folder is not None
        socket = Path(self._folder.name) / f"{next(self._generations)}.sock"
        process = await WorkerProcess.start(self._spec.behind(worker.number, str(socket)))
        worker.process = process
        if self._stopping.is_set():  # while it was started
            process.stop()
        _log.info("worker %s is process %s", worker.number, process.pid)

        def ready() -> None:
            self._loaded = True
            worker.settled.set()

        try:
            end = await process.watch(self._policy, ready)
        finally:
            socket.unlink(missing_ok=True)
        return process.ready_seconds, end

    def _cannot_load(self, end: End) -> bool:
        """Whether the model is to blame, and no worker could ever load it."""
        if end.status != LOAD_FAILED or self._loaded:
            return False
        self.failure = "The model cannot be loaded: the log of worker 1 says why."
        self._on_failure(self.failure)
        return True


def _private_folder() -> tempfile.TemporaryDirectory[str]:
    """Nobody else may enter it, so that a worker answers the supervisor only."""
    prefix = "llamacffi-"
    folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    if len(os.fsencode(folder.name)) < FOLDER_BYTES_MAX:
        return folder
    folder.cleanup()
    return tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp", ignore_cleanup_errors=True)
