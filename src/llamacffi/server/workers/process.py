"""One process of a worker, from its start to its end, seen from the supervisor."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from llamacffi.server.run import GRACE_SECONDS
from llamacffi.server.workers.lifeline import packed
from llamacffi.server.workers.spec import WorkerSpec, WorkersPolicy
from llamacffi.server.workers.upstream import LostError, UpstreamRequest, exchange

__all__ = ["End", "Phase", "WorkerProcess", "fetched"]

LOOK_SECONDS = 1.0  # between two looks at one that is ready
LOOK_SOON_SECONDS = 0.1  # at one that is not yet
# Not started with -m, which would look for modules in the current folder first.
CODE = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from llamacffi.server.workers.worker import main; main()"
)
CRASHES = {
    signal.Signals[name]
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE")
    if name in signal.Signals.__members__
}
_log = logging.getLogger("llamacffi.server")


class Phase(Enum):
    """How a process is."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    SILENT = "silent"  # it answered, and does not any more
    ENDED = "ended"


@dataclass(frozen=True)
class End:
    """How a process ended.

    Attributes:
        status: Its exit status, or a signal's number with a minus.
        silent: Whether it was ended since it did not answer.
    """

    status: int
    silent: bool = False

    @property
    def crashed(self) -> bool:
        """Whether it failed in native code: what it computed may be the reason."""
        return self.status < 0 and -self.status in CRASHES

    @property
    def reason(self) -> str:
        """In a word or two."""
        if self.silent:
            return "silent"
        if self.status >= 0:
            return f"status {self.status}"
        try:
            return signal.Signals(-self.status).name
        except ValueError:
            return f"signal {-self.status}"


class WorkerProcess:
    """A worker's process.

    Args:
        process: The process.
        spec: What it was told.

    Attributes:
        open: Requests that it answers.
        phase: How it is.
        health: What it said last.
    """

    def __init__(self, process: asyncio.subprocess.Process, spec: WorkerSpec) -> None:
        self.open = 0
        self.phase = Phase.STARTING
        self.health: dict[str, Any] = {}
        self._process = process
        self._spec = spec
        self._heard = time.monotonic()
        self._ready_since: float | None = None
        self._silent = False
        self._stopping = False
        self._ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, spec: WorkerSpec) -> WorkerProcess:
        """Start one.

        Raises:
            OSError: The system has no room for it.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            CODE,
            *sys.path,
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the supervisor, which passes it on
        )
        assert process.stdin is not None
        process.stdin.write(packed(spec))
        return cls(process, spec)

    @property
    def number(self) -> int:
        """Which worker it is."""
        return self._spec.number

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def socket(self) -> str:
        """Where it listens."""
        return self._spec.socket

    @property
    def ready_seconds(self) -> float:
        """For how long it has been, or was, able to answer."""
        return 0.0 if self._ready_since is None else time.monotonic() - self._ready_since

    @contextmanager
    def answering(self) -> Iterator[None]:
        """It answers a request meanwhile."""
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    async def watch(self, policy: WorkersPolicy, on_ready: Callable[[], None]) -> End:
        """Look after it until it ends; it is ended if it does not answer for too long.

        Args:
            policy: How long that is.
            on_ready: Called when it can answer.
        """
        exited = asyncio.ensure_future(self._process.wait())
        try:
            while not exited.done():
                if not self._stopping:
                    await self._look(policy)
                ready = self.phase is Phase.READY
                if ready:
                    on_ready()
                pause = min(LOOK_SECONDS, policy.silent_max / 4) if ready else LOOK_SOON_SECONDS
                await asyncio.wait((exited,), timeout=pause)
        finally:
            exited.cancel()
            self.phase = Phase.ENDED
        end = End(exited.result(), self._silent)
        self._ended.set_result(end)
        return end

    async def _look(self, policy: WorkersPolicy) -> None:
        try:
            status, body = await fetched(self.socket, b"/health", policy.silent_max / 3)
            self.health = orjson.loads(body)
        except (LostError, orjson.JSONDecodeError):
            self._hear_nothing(policy)
            return
        self._heard = time.monotonic()
        self.phase = Phase.READY if status == 200 else Phase.LOADING
        if self._ready_since is None and self.phase is Phase.READY:
            self._ready_since = self._heard

    def _hear_nothing(self, policy: WorkersPolicy) -> None:
        starting = self.phase is Phase.STARTING
        if not starting:
            self.phase = Phase.SILENT
        silence = time.monotonic() - self._heard
        if silence > (policy.start_max if starting else policy.silent_max) and not self._silent:
            _log.error(
                "worker %s (process %s) has not answered for %.0f seconds: it is replaced",
                self.number, self.pid, silence,
            )  # fmt: skip
            self._silent = True
            self.kill()

    async def ended_within(self, seconds: float) -> End | None:
        """How it ended; None if it does not within so many seconds."""
        await asyncio.wait((self._ended,), timeout=seconds)
        return self._ended.result() if self._ended.done() else None

    def stop(self) -> None:
        """Let it finish what it answers, in the time that its settings give."""
        if self._stopping or self._process.returncode is not None:
            return
        self._stopping = True
        self._process.terminate()
        limit = self._spec.settings.shutdown_timeout + 2 * GRACE_SECONDS
        asyncio.get_running_loop().call_later(limit, self.kill)

    def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            self._process.kill()


async def fetched(socket: str, target: bytes, seconds: float) -> tuple[int, bytes]:
    """GET something from a worker: the status and the body.

    Raises:
        LostError: It did not answer within so many seconds.
    """

    async def fetch() -> tuple[int, bytes]:
        async with exchange(socket, UpstreamRequest(b"GET", target, [(b"host", b"worker")])) as got:
            await got.begin()
            return got.status, b"".join([piece async for piece in got.pieces()])

    try:
        return await asyncio.wait_for(fetch(), seconds)
    except asyncio.TimeoutError:
        raise LostError(f"No answer within {seconds:g} seconds.") from None
