"""Starting and stopping the servers, each a child process on a free port of loopback."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.metrics import LLAMA_SERVER, OURS, PEER
from benchmarks.subject import SubjectError, stock_environment

START_SECONDS = 120
STOP_SECONDS = 15
MEGABYTE = 1e6


@dataclass(frozen=True)
class Setting:
    """How a server is started.

    Attributes:
        model: The GGUF file.
        n_ctx: Tokens of context, of all sequences together.
        n_parallel: Sequences at a time.
        threads: For the model.
    """

    model: Path
    n_ctx: int
    n_parallel: int
    threads: int


@dataclass(frozen=True)
class Server:
    """A kind of server.

    Attributes:
        name: As it appears in the tables.
        command: Its command line, from the setting and the port.
        ready: The path that answers 200 as soon as requests can be made.
        extras: Added to each request: how to say `ignore_eos`, where it is not known by that name.
        gauges: What /metrics calls the requests `running` and `waiting`, which are none when idle.
        levels: What it calls numbers that are the same whenever it is idle.
    """

    name: str
    command: Callable[[Setting, int], list[str]]
    ready: str = "/health"
    extras: Mapping[str, object] = field(default_factory=dict)
    gauges: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def started(self, setting: Setting) -> Iterator[RunningServer]:
        port = free_port()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of `finally`: no orphans
        with tempfile.TemporaryFile() as log:
            child = subprocess.Popen(
                self.command(setting, port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=stock_environment(),
            )
            running = RunningServer(self, port, psutil.Process(child.pid))
            try:
                running.wait_until_ready(child)
                yield running
            except SubjectError as error:
                log.seek(0)
                end = log.read()[-2000:].decode(errors="replace")
                raise SubjectError(f"{self.name}: {error}\n{end}") from None
            finally:
                stop(child)


@dataclass(frozen=True)
class RunningServer:
    """One that answers."""

    server: Server
    port: int
    process: psutil.Process

    def get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())

    def wait_until_ready(self, child: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise SubjectError(f"It ended with status {child.returncode} instead of serving.")
            try:
                self.get(self.server.ready)
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.1)
            else:
                return
        raise SubjectError(f"It was not ready after {START_SECONDS} s.")

    def processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def memory(self) -> float:
        """Resident megabytes of the process and its children."""
        return sum(process.memory_info().rss for process in self.processes()) / MEGABYTE

    def gauges(self) -> dict[str, float]:
        """What of the work /metrics shows, by our names."""
        return self._figures(self.server.gauges)

    def levels(self) -> dict[str, float]:
        """The numbers that are the same whenever it is idle."""
        return self._figures(self.server.levels)

    def _figures(self, names: Mapping[str, str]) -> dict[str, float]:
        found: dict[str, float] = {}
        for line in self.get("/metrics").splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]  # whatever the model
                found[name] = found.get(name, 0.0) + float(value)
        missing = [name for name in names.values() if name not in found]
        if missing:
            raise SubjectError(f"/metrics has no {', '.join(missing)}; it has {', '.join(found)}")
        return {label: found[name] for label, name in names.items()}


def stop(child: subprocess.Popen[bytes]) -> None:
    """Ask it to end; make it."""
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def from_setup(place: Path) -> dict[str, Server]:
    """The servers as ci/bench sets them up."""

    def ours(setting: Setting, port: int) -> list[str]:
        command = [place / "ours/bin/llamacffi", "serve", setting.model]
        command += ["--host", "127.0.0.1", "--port", port, "--n-ctx", setting.n_ctx]
        command += ["--n-threads", setting.threads, "--n-parallel", setting.n_parallel]
        return [str(part) for part in command]

    def llama_server(setting: Setting, port: int) -> list[str]:
        command = [place / "stock/bin/llama-server", "--model", setting.model]
        command += ["--host", "127.0.0.1", "--port", port, "--ctx-size", setting.n_ctx]
        command += ["--threads", setting.threads, "--parallel", setting.n_parallel, "--metrics"]
        return [str(part) for part in command]

    def peer(setting: Setting, port: int) -> list[str]:
        # One sequence at a time, and the context is that one's. By default it cuts a running
        # answer off when the next request comes.
        command = [place / "peer/bin/python", "-m", "llama_cpp.server", "--model", setting.model]
        command += ["--host", "127.0.0.1", "--port", port]
        command += ["--n_ctx", setting.n_ctx // setting.n_parallel]
        command += ["--n_threads", setting.threads, "--n_threads_batch", setting.threads]
        command += ["--interrupt_requests", False]
        return [str(part) for part in command]

    # The end-of-generation tokens of SmolLM2: <|endoftext|>, <|im_end|>.
    never_end = {"logit_bias_type": "input_ids", "logit_bias": {"0": -100, "2": -100}}
    servers = (
        Server(
            OURS,
            ours,
            gauges={
                "running": "llamacffi_engine_n_running",
                "waiting": "llamacffi_engine_n_waiting",
            },
            levels={"idle sequences": "llamacffi_engine_n_idle_sequences"},
        ),
        Server(PEER, peer, ready="/v1/models", extras=never_end),
        Server(
            LLAMA_SERVER,
            llama_server,
            gauges={
                "running": "llamacpp:requests_processing",
                "waiting": "llamacpp:requests_deferred",
            },
        ),
    )
    return {server.name: server for server in servers}
