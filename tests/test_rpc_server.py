"""`llamacffi rpc-server`: its clients, honest and hostile, its command line and its end."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from llamacffi import Model
from llamacffi.cli import main
from llamacffi.errors import ParameterError, RemoteDeviceError
from llamacffi.rpc.endpoint import Endpoint
from llamacffi.rpc.server import RpcServer, is_loopback
from llamacffi.rpc.serving import ServingOptions
from tests.rpc_servers import RpcProcess, read_exactly, rpc_server, wait_until

# enum rpc_cmd
(ALLOC, ALIGNMENT, MAX_SIZE, BASE, FREE, CLEAR, SET, HASH, GET, COPY, GRAPH, MEMORY, INIT,
 ALLOC_SIZE, HELLO, COUNT, AGAIN, MEMSET, NONE) = range(19)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[RpcProcess]:
    with rpc_server() as started:
        yield started


def connected(server: RpcProcess) -> socket.socket:
    host, port = server.endpoint.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def greeted(server: RpcProcess) -> socket.socket:
    connection = connected(server)
    connection.sendall(struct.pack("<BQ", HELLO, 24) + bytes(24))
    assert read_exactly(connection, 8) == struct.pack("<Q", 28)
    read_exactly(connection, 28)
    return connection


def message(command: int, body: bytes, size: int | None = None) -> bytes:
    return struct.pack("<BQ", command, len(body) if size is None else size) + body


def asked(connection: socket.socket, command: int, body: bytes) -> bytes:
    connection.sendall(message(command, body))
    return read_exactly(connection, int.from_bytes(read_exactly(connection, 8), "little"))


def tensor(
    *, kind: int = 0, buffer: int = 0, ne: tuple[int, ...] = (4, 1, 1, 1), data: int = 0,
    op: int = 0, number: int = 1, sources: tuple[int, ...] = (), view: int = 0,
) -> bytes:  # fmt: skip
    """One rpc_tensor."""
    strides = [4]
    for count in ne[:3]:
        strides.append(strides[-1] * count % 2**32)
    head = struct.pack("<QIQ", number, kind, buffer) + struct.pack("<4I4I", *ne, *strides)
    params = struct.pack("<I16ii", op, *[0] * 16, 0)
    links = struct.pack("<10QQQQ", *sources, *[0] * (10 - len(sources)), view, 0, data)
    return head + params + links + bytes(64) + struct.pack("<i", 0)


def read_to_the_end(connection: socket.socket) -> None:
    with suppress(OSError):  # closed with something unread
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def goes_on(server: RpcProcess, path: Path) -> None:
    with (
        Model(path, backend="cpu", rpc_servers=server.endpoint) as model,
        model.context(n_ctx=32, n_threads=1) as context,
    ):
        context.decode_tokens([5, 6])
    assert server.process.poll() is None


def hostile_messages() -> dict[str, bytes]:
    graph = struct.pack("<II", 0, 1) + struct.pack("<Q", 1) + struct.pack("<I", 1)
    return {
        "an unknown command": message(77, b""),
        "a size of 2**64 - 1": message(SET, b"", 2**64 - 1),
        "a graph of 2**63 bytes": message(GRAPH, b"", 2**63),
        "a short tensor": message(SET, bytes(10)),
        "no such device": message(ALLOC, struct.pack("<IQ", 9, 64)),
        "a huge buffer": message(ALLOC, struct.pack("<IQ", 0, 2**63)),
        "no such buffer": message(FREE, struct.pack("<Q", 12345)),
        "no such buffer's base": message(BASE, struct.pack("<Q", 12345)),
        "no such type": message(INIT, tensor(kind=4711)),
        "a tensor of nowhere": message(GET, tensor() + struct.pack("<QQ", 0, 16)),
        "a huge tensor": message(INIT, tensor(ne=(2**32 - 1,) * 4)),
        "an empty graph": message(GRAPH, struct.pack("<III", 0, 0, 0)),
        "a graph of 2**32 - 1 nodes": message(GRAPH, struct.pack("<II", 0, 2**32 - 1)),
        "a node that reads address 1": message(GRAPH, graph + tensor(op=2, data=1)),
        "an addition of nothing": message(GRAPH, graph + tensor(op=2)),
        "an unknown operation": message(GRAPH, graph + tensor(op=10**6)),
        "a tensor that is its own source": message(GRAPH, graph + tensor(op=2, sources=(1, 1))),
        "a view of itself": message(GRAPH, graph + tensor(view=1)),
        "the last graph, which there is not": message(AGAIN, struct.pack("<I", 0)),
        "memory of no device": message(MEMORY, struct.pack("<I", 7)),
        "another greeting": message(HELLO, bytes(24)),
    }


@pytest.mark.parametrize("sent", hostile_messages().values(), ids=hostile_messages())
def test_a_hostile_client_loses_its_own_process_at_most(server: RpcProcess, sent: bytes) -> None:
    with closing(greeted(server)) as honest, closing(greeted(server)) as hostile:
        hostile.sendall(sent)
        read_to_the_end(hostile)
        assert asked(honest, COUNT, b"") == struct.pack("<I", 1)  # its process is another one


def test_clients_that_send_anything(server: RpcProcess, exact_path: Path) -> None:
    random.seed(4)
    for greet in (connected, greeted):
        for _ in range(3):
            with closing(greet(server)) as client:
                client.sendall(random.randbytes(random.randrange(1, 4000)))
                read_to_the_end(client)
    goes_on(server, exact_path)


def test_what_is_said_to_come_takes_no_memory(server: RpcProcess) -> None:
    wait_until(lambda: not server.workers())
    with closing(greeted(server)) as client:
        (worker,) = server.workers()
        before = worker.memory_info().rss
        client.sendall(message(SET, bytes(1000), 2**40))
        time.sleep(0.5)
        assert worker.memory_info().rss < before + 100 * 2**20


def test_buffers_of_others_cannot_be_used(server: RpcProcess) -> None:
    with closing(greeted(server)) as one, closing(greeted(server)) as two:
        pointer, size = struct.unpack("<QQ", asked(one, ALLOC, struct.pack("<IQ", 0, 4096)))
        assert size >= 4096
        (base,) = struct.unpack("<Q", asked(one, BASE, struct.pack("<Q", pointer)))
        inside = tensor(buffer=pointer, data=base)
        one.sendall(message(SET, inside + b"\0" + struct.pack("<Q", 0) + b"abcdabcdabcdabcd"))
        read = inside + struct.pack("<QQ", 0, 16)
        assert asked(one, GET, read) == b"abcdabcdabcdabcd"
        with pytest.raises(ConnectionResetError):
            asked(two, GET, read)
        # Nor what is behind one's own.
        outside = tensor(buffer=pointer, data=base + size) + struct.pack("<QQ", 0, 16)
        with pytest.raises(ConnectionResetError):
            asked(one, GET, outside)


def test_who_connects_and_says_nothing_is_dropped(server: RpcProcess) -> None:
    wait_until(lambda: not server.workers())
    with closing(connected(server)) as client:
        client.settimeout(20)
        assert client.recv(1) == b""  # LLAMACFFI_RPC_HELLO_MS


def test_no_more_clients_than_allowed(exact_path: Path) -> None:
    with rpc_server("--max-clients", "1") as server:
        with (
            Model(exact_path, backend="cpu", rpc_servers=server.endpoint),
            pytest.raises(RemoteDeviceError, match="all the clients that it takes"),
        ):
            Model(exact_path, backend="cpu", rpc_servers=server.endpoint)
        wait_until(lambda: not server.workers())
        goes_on(server, exact_path)


def test_the_cache_spares_sending_weights(tmp_path: Path, model_path: Path) -> None:
    cache = tmp_path / "cache"
    with rpc_server("--cache-dir", str(cache)) as server:
        for _ in range(2):
            goes_on(server, model_path)
    # SmolLM2's output matrix is the only tensor beyond ggml's threshold of 10 MiB.
    assert [file.stat().st_size > 10 * 2**20 for file in cache.iterdir()] == [True]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_told_to(exact_path: Path, number: int) -> None:
    with rpc_server() as server, Model(exact_path, backend="cpu", rpc_servers=server.endpoint):
        workers = server.workers()
        os.kill(server.process.pid, number)
        assert server.process.wait(10) == 0
        assert not psutil.wait_procs(workers, timeout=5)[1]


def test_its_processes_end_with_it(exact_path: Path) -> None:
    with rpc_server() as server, Model(exact_path, backend="cpu", rpc_servers=server.endpoint):
        workers = server.workers()
        assert workers
        server.process.kill()
        assert not psutil.wait_procs(workers, timeout=5)[1]


# -- the command line ------------------------------------------------------------------------------


def test_it_listens_on_the_loopback_unless_it_is_told_otherwise(server: RpcProcess) -> None:
    assert server.endpoint.startswith("127.0.0.1:")
    assert "Warning" not in server.text()
    with rpc_server("--host", "0.0.0.0") as open_to_all:
        assert "NO authentication" in open_to_all.text()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_what_a_loopback_is(host: str, loopback: bool) -> None:
    assert is_loopback(Endpoint(host, 1)) == loopback


def test_an_ipv6_server(exact_path: Path) -> None:
    with rpc_server("--host", "::1") as server:
        assert re.fullmatch(r"\[::1\]:\d+", server.endpoint)
        goes_on(server, exact_path)


def test_mistakes_on_the_command_line() -> None:
    run = CliRunner().invoke(main, ["rpc-server", "--backend", "cpu", "--device", "Vulkan9"])
    assert run.exit_code == 2
    assert "There is CPU" in run.output
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        run = CliRunner().invoke(main, ["rpc-server", "--backend", "cpu", "--port", port])
    assert run.exit_code == 1
    assert f"port {port}: Address already in use" in run.output
    with pytest.raises(ParameterError, match="Give an address of this machine"):
        RpcServer("no-such-host.invalid", 0, ServingOptions("", (), 1), 1)


def test_the_commands_take_servers(exact_path: Path, server: RpcProcess) -> None:
    command = [sys.executable, "-m", "llamacffi", "complete", str(exact_path), "a"]
    options = ["--backend", "cpu", "-n", "4", "-t", "1", "-c", "64", "--temp", "0", "--quiet"]
    texts = [
        subprocess.run([*command, *options, *more], check=True, capture_output=True).stdout
        for more in ((), ("--rpc", server.endpoint))
    ]
    assert texts[0] == texts[1]
    assert "is connected" in server.text()
    run = CliRunner().invoke(main, ["complete", str(exact_path), "a", "--rpc", "127.0.0.1:1"])
    assert run.exit_code == 1
    assert "127.0.0.1:1 could not be reached" in run.output
