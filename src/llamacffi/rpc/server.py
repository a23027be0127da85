"""An RPC server: takes connections, and has each answered by a process of its own."""

from __future__ import annotations

import logging
import selectors
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacffi.errors import ParameterError, UnsupportedError
from llamacffi.rpc.connecting import keep_alive
from llamacffi.rpc.endpoint import Endpoint
from llamacffi.rpc.serving import ServingOptions, start_serving

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RpcServer", "is_loopback"]

log = logging.getLogger(__name__)
REAP_SECONDS = 0.5  # how soon it is noticed that a process has ended
BACKLOG = 16


def is_loopback(endpoint: Endpoint) -> bool:
    """Whether only programs of this machine can connect to an address."""
    return endpoint.host == "::1" or endpoint.host.startswith("127.")


@dataclass
class _Client:
    name: str
    process: subprocess.Popen[bytes]


class RpcServer:
    """Listens from the beginning on; answers while `serve` runs.

    There is no authentication: who can connect can use the devices, read and change what other
    clients keep in the cache, and perhaps run code as this user.

    Args:
        host: The address or name to listen at.
        port: 0 for a free one.
        options: What clients are served with.
        n_clients_max: Clients at a time; more are turned away.

    Attributes:
        endpoint: Where it listens.

    Raises:
        ParameterError: It cannot listen there.
        UnsupportedError: Windows, where a process cannot be given a socket in this way.
    """

    def __init__(self, host: str, port: int, options: ServingOptions, n_clients_max: int) -> None:
        if sys.platform == "win32":
            raise UnsupportedError(
                "llamacffi rpc-server needs a system with fork and exec. On Windows, run it in "
                "WSL, or use llama.cpp's own rpc-server."
            )
        self._options = options
        self._n_clients_max = n_clients_max
        self._clients: list[_Client] = []
        self._listener = _listening(host, port)
        address = self._listener.getsockname()
        self.endpoint = Endpoint(str(address[0]), int(address[1]))
        self._waker, self._woken = socket.socketpair()

    def serve(self) -> None:
        """Answer clients until `stop` is called, then end what still runs."""
        self._listener.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(REAP_SECONDS)}
                if self._woken in ready:
                    return
                self._reap()
                if self._listener in ready:
                    self._accept()

    def stop(self) -> None:
        """Have `serve` return; for any thread, and for signal handlers."""
        self._waker.send(b"x")

    def close(self) -> None:
        """Listen no more, and end the processes of all clients."""
        self._listener.close()
        for client in self._clients:
            client.process.kill()  # it has nothing to save
        for client in self._clients:
            self._wait(client)
        self._clients.clear()
        self._waker.close()
        self._woken.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _accept(self) -> None:
        try:
            connection, address = self._listener.accept()
        except OSError as error:  # the client has left again, or there are no descriptors left
            log.warning("A connection could not be taken: %s", error)
            return
        with connection:  # the process has a copy
            name = str(Endpoint(str(address[0]), int(address[1])))
            if len(self._clients) >= self._n_clients_max:
                log.warning("%s was turned away: there are %d clients.", name, len(self._clients))
                return
            try:
                connection.setblocking(True)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                keep_alive(connection)
                process = start_serving(connection.fileno(), self._options)
            except OSError as error:
                log.warning("%s cannot be served: %s", name, error)
                return
        self._clients.append(_Client(name, process))
        log.info("%s is connected, and served by process %d.", name, process.pid)

    def _reap(self) -> None:
        for client in [one for one in self._clients if one.process.poll() is not None]:
            self._clients.remove(client)
            self._wait(client)

    def _wait(self, client: _Client) -> None:
        code = client.process.wait()
        assert client.process.stdin is not None
        client.process.stdin.close()
        if code < 0 and code != -signal.SIGKILL:
            words = signal.strsignal(-code) or f"signal {-code}"
            log.warning("The process that served %s has ended: %s.", client.name, words)
        else:
            log.info("%s is gone.", client.name)


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ParameterError(f"port={port}: choose 0 to 65535.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ParameterError(f"host={host!r}: {error}. Give an address of this machine.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ParameterError(
            f"It is not possible to listen at {host}, port {port}: {error.strerror}. Choose "
            "another port, or an address of this machine."
        ) from None
    return listener
