"""Addresses of RPC servers, and what is found there: errors that name it, in bounded time."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacffi import Model
from llamacffi.errors import LlamaCffiError, ParameterError, RemoteDeviceError
from llamacffi.rpc import Endpoint, parse_endpoints
from llamacffi.rpc.connecting import CONNECT_VARIABLE, DEVICES_MAX
from tests.rpc_servers import HELLO_BYTES, greet, read_exactly, stand_in


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.2:50052", "10.0.0.2", 50052),
        (" gpu-box.example:1 ", "gpu-box.example", 1),
        ("[::1]:50052", "::1", 50052),
    ],
)
def test_addresses_are_read(text: str, host: str, port: int) -> None:
    assert Endpoint.parse(text) == Endpoint(host, port)
    assert str(Endpoint.parse(text)) == text.strip()


@pytest.mark.parametrize(
    "text",
    ["", "host", ":1", "host:", "host:0", "host:65536", "host:-1", "host:1x", "http://host:1",
     "::1:50052", "[::1]", "[]:1", "a b:1", "a\0b:1", "user@host:1", "host#1:1", "host:\u0661",
     "x" * 254 + ":1"],
)  # fmt: skip
def test_others_are_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="no address of a server"):
        parse_endpoints([text])


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        endpoint = Endpoint.parse(text)
    except ParameterError:
        return
    assert Endpoint.parse(str(endpoint)) == endpoint


def test_lists_are_read() -> None:
    assert parse_endpoints(None) == ()
    assert parse_endpoints("a:1,b:2") == parse_endpoints(["a:1", "b:2"])
    with pytest.raises(ParameterError, match="a:1 is named twice"):
        parse_endpoints(["a:1", "b:2", "a:1"])
    with pytest.raises(ParameterError, match="7 is no text"):
        parse_endpoints([7])  # type: ignore[list-item]  # a mistake of the caller's


def refused(path: Path, endpoint: str, words: str, seconds: float = 5) -> None:
    started = time.monotonic()
    with pytest.raises(RemoteDeviceError, match=words) as caught:
        Model(path, backend="cpu", rpc_servers=[endpoint])
    assert endpoint in str(caught.value)
    assert time.monotonic() - started < seconds


def test_nothing_listens(exact_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    refused(exact_path, f"127.0.0.1:{port}", "Connection refused")


def test_an_unknown_host(exact_path: Path) -> None:
    refused(exact_path, "no-such-host.invalid:50052", "is unknown|not resolved", 12)


def test_a_host_that_says_nothing(exact_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECT_VARIABLE, "0.5")
    with stand_in(lambda connection: None) as endpoint:
        refused(exact_path, endpoint, "did not answer within 0.5 s", 2)
    with stand_in(
        lambda connection: [connection.sendall(b"\x1c") or time.sleep(0.1) for _ in range(40)]
    ) as endpoint:
        refused(exact_path, endpoint, "did not answer within 0.5 s|\\\\x1c", 2)


def test_a_timeout_that_is_none(exact_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("soon", "0", "-1", "inf", "nan"):
        monkeypatch.setenv(CONNECT_VARIABLE, text)
        with pytest.raises(ParameterError, match=CONNECT_VARIABLE):
            Model(exact_path, backend="cpu", rpc_servers="127.0.0.1:1")
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ParameterError, match="rpc_timeout"):
            Model(exact_path, backend="cpu", rpc_timeout=seconds)


def test_a_web_server(exact_path: Path) -> None:
    with stand_in(lambda c: c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as endpoint:
        refused(exact_path, endpoint, "does not answer as an RPC server.*HTTP/1.1")


def test_one_that_hangs_up(exact_path: Path) -> None:
    with stand_in(lambda c: (read_exactly(c, HELLO_BYTES), c.shutdown(socket.SHUT_RDWR))) as where:
        refused(exact_path, where, "closed the connection")


@pytest.mark.parametrize("version", [(6, 0, 0), (7, 9, 0), (8, 0, 0)])
def test_another_version(exact_path: Path, version: tuple[int, int, int]) -> None:
    with stand_in(lambda c: greet(c, version)) as endpoint:
        refused(exact_path, endpoint, ".".join(map(str, version)))


@pytest.mark.parametrize("count", [0, DEVICES_MAX + 1, 2**32 - 1])
def test_an_absurd_number_of_devices(exact_path: Path, count: int) -> None:
    def answer(connection: socket.socket) -> None:
        read_exactly(connection, HELLO_BYTES)
        connection.sendall(struct.pack("<Q", 28) + bytes((7, 0, 0)) + bytes(25))
        read_exactly(connection, 9)
        connection.sendall(struct.pack("<QI", 4, count))

    with stand_in(answer) as endpoint:
        refused(exact_path, endpoint, f"has {count} devices")


def test_one_that_greets_and_then_hangs(exact_path: Path) -> None:
    with stand_in(greet) as endpoint:
        started = time.monotonic()
        with pytest.raises(LlamaCffiError, match="did not answer in time"):
            Model(exact_path, backend="cpu", rpc_servers=endpoint, rpc_timeout=0.5)
        assert time.monotonic() - started < 5


def test_the_limit_is_llama_cpps(tiny_llama: Model) -> None:
    assert tiny_llama.library.lib.llama_max_devices() == DEVICES_MAX
