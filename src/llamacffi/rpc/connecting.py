"""A connection to an RPC server: found, opened and greeted, in bounded time.

Done here and not in ggml-rpc, which resolves no IPv6 names and waits for ever for an answer.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from llamacffi.errors import ParameterError, RemoteDeviceError
from llamacffi.rpc.endpoint import Endpoint

__all__ = ["CONNECT_VARIABLE", "Greeted", "connect", "connect_seconds", "keep_alive"]

CONNECT_VARIABLE = "LLAMACFFI_RPC_CONNECT_TIMEOUT"
CONNECT_SECONDS = 10.0
DEVICES_MAX = 16  # llama.cpp splits a model over so many (llama_max_devices)
# enum rpc_cmd of ggml-rpc.cpp
_HELLO, _DEVICE_COUNT, _DEVICE_MEMORY = 14, 15, 11
_CAPS_BYTES = 24  # what transports a side has beside TCP: zeros for none
_HELLO_ANSWER = struct.Struct(f"<BBBx{_CAPS_BYTES}x")
_COUNT_ANSWER = struct.Struct("<I")
_MEMORY_ANSWER = struct.Struct("<QQ")
# A host that vanished is noticed after 15 + 4 * 5 seconds.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


@dataclass(frozen=True)
class Greeted:
    """A server that answered.

    Attributes:
        connection: The socket, blocking, after the handshake.
        memory: Of each device that the server offers, the bytes free and in total.
    """

    connection: socket.socket
    memory: tuple[tuple[int, int], ...]


def connect_seconds() -> float:
    """How long a server has to take a connection and to answer.

    Raises:
        ParameterError: The variable LLAMACFFI_RPC_CONNECT_TIMEOUT is no positive number.
    """
    text = os.environ.get(CONNECT_VARIABLE)
    if text is None:
        return CONNECT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ParameterError(f"{CONNECT_VARIABLE}={text!r}: give a number of seconds.")
    return seconds


def connect(endpoint: Endpoint, protocol: int, seconds: float) -> Greeted:
    """Connect to a server and exchange greetings.

    Args:
        endpoint: Where it listens.
        protocol: Our version of the protocol (llamacffi_remote_protocol).
        seconds: How long all of it may take.

    Raises:
        RemoteDeviceError: There is no such host, nothing listens there, it is no server of
            llama.cpp, or one of another version, it does not answer in time, or has no devices.
    """
    deadline = time.monotonic() + seconds
    connection = _opened(endpoint, deadline, seconds)

    def ask(command: int, body: bytes, answer: struct.Struct) -> tuple[int, ...]:
        request = struct.pack("<BQ", command, len(body)) + body
        return _ask(endpoint, connection, deadline, seconds, request, answer)

    try:
        version = ask(_HELLO, bytes(_CAPS_BYTES), _HELLO_ANSWER)
        major, minor = protocol >> 16, protocol >> 8 & 0xFF
        if version[0] != major or version[1] > minor:
            raise RemoteDeviceError(
                f"The RPC server {endpoint} speaks version {'.'.join(map(str, version))} of the "
                f"protocol, this llama.cpp {major}.{minor}. Run the same version of llamacffi, or "
                "of llama.cpp, on both machines."
            )
        (count,) = ask(_DEVICE_COUNT, b"", _COUNT_ANSWER)
        if not 1 <= count <= DEVICES_MAX:
            raise RemoteDeviceError(
                f"The RPC server {endpoint} says that it has {count} devices: 1 to {DEVICES_MAX} "
                "can be used. Start it with --device."
            )
        memory = [ask(_DEVICE_MEMORY, struct.pack("<I", i), _MEMORY_ANSWER) for i in range(count)]
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(connection)
    except BaseException:
        connection.close()
        raise
    return Greeted(connection, tuple((free, total) for free, total in memory))


def keep_alive(connection: socket.socket) -> None:
    """Have the system notice when the other host is gone without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        option = getattr(socket, name, None)
        # macOS calls the first one by another name; Linux has no such option.
        if option is not None and not (name == "TCP_KEEPALIVE" and sys.platform != "darwin"):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _opened(endpoint: Endpoint, deadline: float, seconds: float) -> socket.socket:
    problem: OSError | None = None
    for family, kind, protocol, _, address in _addresses(endpoint, deadline, seconds):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(left)
            connection.connect(address)
        except OSError as error:
            problem = error
            connection.close()
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    if problem is None or isinstance(problem, TimeoutError):
        raise RemoteDeviceError(
            f"The RPC server {endpoint} could not be reached within {seconds:g} s. Check the "
            f"address and the firewall; {CONNECT_VARIABLE} sets another time."
        )
    raise RemoteDeviceError(
        f"The RPC server {endpoint} could not be reached: {problem.strerror or problem}. Start "
        "`llamacffi rpc-server` there, or correct the address."
    )


def _addresses(endpoint: Endpoint, deadline: float, seconds: float) -> list[Any]:
    """What a name stands for; in a thread, since a resolver may take its time."""
    found: list[Any] = []
    problems: list[Exception] = []

    def resolve() -> None:
        try:
            found.extend(socket.getaddrinfo(endpoint.host, endpoint.port, 0, socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            problems.append(error)

    thread = threading.Thread(target=resolve, name="llamacffi-resolve", daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if thread.is_alive():
        raise RemoteDeviceError(
            f"The name of the RPC server {endpoint} was not resolved within {seconds:g} s. Give "
            "its address, or check the name server."
        )
    if problems:
        words = problems[0].strerror if isinstance(problems[0], OSError) else None
        raise RemoteDeviceError(
            f"The host of the RPC server {endpoint} is unknown: {words or problems[0]}. Correct "
            "the name, or give an address."
        )
    return found


def _ask(
    endpoint: Endpoint,
    connection: socket.socket,
    deadline: float,
    seconds: float,
    request: bytes,
    answer: struct.Struct,
) -> tuple[int, ...]:
    """One request of the handshake, and its answer."""
    try:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        connection.sendall(request)
        size = _received(connection, 8, deadline)
        if int.from_bytes(size, "little") != answer.size:
            raise _no_server(endpoint, f"it answered with {size!r}")
        return answer.unpack(_received(connection, answer.size, deadline))
    except TimeoutError:
        raise RemoteDeviceError(
            f"The RPC server {endpoint} took the connection, and did not answer within "
            f"{seconds:g} s. It is no RPC server, hangs, or has a client already (llama.cpp's own "
            f"rpc-server takes one at a time); {CONNECT_VARIABLE} sets another time."
        ) from None
    except (EOFError, ConnectionResetError, BrokenPipeError):
        found = "it closed the connection; perhaps it has all the clients that it takes"
        raise _no_server(endpoint, found) from None
    except OSError as error:
        raise _no_server(endpoint, error.strerror or str(error)) from None


def _received(connection: socket.socket, count: int, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _no_server(endpoint: Endpoint, found: str) -> RemoteDeviceError:
    return RemoteDeviceError(
        f"{endpoint} does not answer as an RPC server of llama.cpp: {found}. Check the port; "
        "`llamacffi rpc-server` prints its own."
    )
