"""Servers in tests: on loopback, in a thread or in a process of their own, and ways to ask them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from openai import OpenAI

from llamacffi import Model
from llamacffi.engine import AsyncEngine, Engine
from llamacffi.server import Models, OneModel, Settings
from llamacffi.server.app import state_of
from llamacffi.server.run import Server
from llamacffi.server.state import State

__all__ = [
    "NAME",
    "Served",
    "ServerProcess",
    "engine_of",
    "eventually",
    "server_process",
    "serving",
]
from tests.conftest import N_THREADS

PATIENCE_SECONDS = 30.0
NAME = "smollm2"


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not become so"
        time.sleep(0.01)


def engine_of(model: Model, **options: Any) -> AsyncEngine:
    """An engine for a server, which closes it."""
    given = {"n_parallel": 4, "n_ctx": 2048, "n_threads": N_THREADS, **options}
    return AsyncEngine(Engine(model, **given))


@dataclass
class Served:
    """A server that runs in a thread.

    Attributes:
        url: Its address.
        state: What its parts share.
        http: A client without retries.
        key: The API key that `http` and `openai` send.
    """

    url: str
    state: State
    http: httpx.Client
    server: Server
    key: str = "none"

    def openai(self, **options: Any) -> OpenAI:
        """OpenAI's client; to be used with `with`."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, **options)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def metric(self, line: str) -> float:
        """The value behind a name with its labels; 0 if it is not there."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.http.get("/metrics").text, re.M)
        return float(found[1]) if found else 0.0


@contextmanager
def serving(
    models: Models | Any, settings: Settings | None = None, key: str = ""
) -> Iterator[Served]:
    """A server in a thread; models may be an engine, which is closed with the server."""
    if not isinstance(models, Models):
        models = OneModel.loaded(models, NAME, ["other-name"])
    addresses: list[str] = []
    server = Server(models, settings or Settings(), port=0, on_ready=addresses.append)
    thread = threading.Thread(target=server.run, name="test-server")
    thread.start()
    try:
        eventually(lambda: addresses or not thread.is_alive())
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=addresses[0], headers=headers, timeout=120) as http:
            state = state_of(server.config.app)  # type: ignore[arg-type]  # it is a FastAPI
            yield Served(addresses[0], state, http, server, key or "none")
    finally:
        server.stop()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive(), "the server does not stop"


@dataclass
class ServerProcess:
    """A `llamacffi serve` that runs."""

    url: str
    process: subprocess.Popen[str]

    def terminate(self) -> int:
        """Send SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def server_process(*arguments: str, **environment: str) -> Iterator[ServerProcess]:
    """`llamacffi serve` with these arguments, when it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "llamacffi", "serve", *arguments, "--port", "0"],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.match(r"Listening on (http://\S+)", line):
                yield ServerProcess(found[1], process)
                return
        raise AssertionError("".join(lines))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()
