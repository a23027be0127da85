"""RPC servers in processes of their own, and stand-ins that misbehave."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

START_SECONDS = 60
HELLO_BYTES = 1 + 8 + 24


@dataclass
class RpcProcess:
    """A `llamacffi rpc-server`."""

    process: subprocess.Popen[str]
    endpoint: str
    lines: list[str] = field(default_factory=list)

    def workers(self) -> list[psutil.Process]:
        """The processes that answer its clients."""
        return psutil.Process(self.process.pid).children()

    def signal_workers(self, number: int) -> None:
        for worker in self.workers():
            os.kill(worker.pid, number)

    def kill_workers(self) -> None:
        """No word of goodbye."""
        for worker in self.workers():
            worker.kill()
            psutil.wait_procs([worker], timeout=10)

    def text(self) -> str:
        return "".join(self.lines)


@contextmanager
def rpc_server(*options: str) -> Iterator[RpcProcess]:
    """`llamacffi rpc-server` at a free port of the loopback."""
    command = [sys.executable, "-m", "llamacffi", "rpc-server", "--port", "0", "-t", "1"]
    process = subprocess.Popen(
        [*command, "--backend", "cpu", *options], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    stderr = process.stderr
    server = RpcProcess(process, "")
    listening = threading.Event()

    def read() -> None:
        for line in stderr:
            server.lines.append(line)
            if found := re.match(r"Listening on (\S+)", line):
                server.endpoint = found[1]
                listening.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert listening.wait(START_SECONDS), server.text()
        yield server
    finally:
        if process.poll() is None:
            for worker in server.workers():
                os.kill(worker.pid, signal.SIGCONT)
            process.terminate()
        process.wait(20)
        reader.join(10)
        stderr.close()


@contextmanager
def stand_in(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """A listener that answers each connection in its own way; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    opened: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            opened.append(connection)
            threading.Thread(target=attempt, args=(connection,), daemon=True).start()

    def attempt(connection: socket.socket) -> None:
        try:
            answer(connection)
        except OSError:
            pass

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in opened:
            connection.close()


def read_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def greet(connection: socket.socket, version: tuple[int, int, int] = (7, 0, 0)) -> None:
    """The handshake of a server with one device."""
    read_exactly(connection, HELLO_BYTES)
    connection.sendall(struct.pack("<Q", 28) + bytes(version) + bytes(25))
    read_exactly(connection, 9)
    connection.sendall(struct.pack("<QI", 4, 1))
    read_exactly(connection, 13)
    connection.sendall(struct.pack("<QQQ", 16, 2**30, 2**30))


@contextmanager
def lying_proxy(endpoint: str, lie: Callable[[int, bytes], bytes | None]) -> Iterator[str]:
    """Passes everything on to a server, and its answers through `lie` (command, whole answer)."""
    answered = {0, 1, 2, 3, 7, 8, 9, 11, 13, 14, 15}  # commands that have an answer
    host, port = endpoint.split(":")

    def serve(client: socket.socket) -> None:
        with socket.create_connection((host, int(port))) as server:
            while True:
                head = read_exactly(client, 9)
                size = int.from_bytes(head[1:], "little")
                server.sendall(head + read_exactly(client, size))
                if head[0] in answered:
                    count = read_exactly(server, 8)
                    answer = count + read_exactly(server, int.from_bytes(count, "little"))
                    changed = lie(head[0], answer)
                    if changed is None:
                        return client.close()
                    client.sendall(changed)

    with stand_in(serve) as address:
        yield address


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
