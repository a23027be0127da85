"""Run the application as a server of its own, until it is told to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from llamacffi.server.app import create_app, state_of
from llamacffi.server.models import Models
from llamacffi.server.settings import Settings

if TYPE_CHECKING:
    import socket

    from starlette.applications import Starlette

    from llamacffi.server.state import Operation

__all__ = ["GRACE_SECONDS", "AppServer", "Server", "serve"]

GRACE_SECONDS = 5  # for what ends when its time is up to say so
KEEP_ALIVE_SECONDS = 30
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class AppServer(uvicorn.Server):
    """Uvicorn with an application of this package.

    Args:
        app: The application.
        operation: What its parts share.
        host: The address to listen on.
        port: The port; 0 for a free one.
        uds: The path of a Unix-domain socket to listen on instead.
        on_ready: Called with the address when connections are accepted.
    """

    def __init__(
        self,
        app: Starlette,
        operation: Operation,
        host: str = "127.0.0.1",
        port: int = 8080,
        uds: str | None = None,
        on_ready: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                uds=uds,
                log_config=None,  # logging is the application's
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=int(operation.settings.shutdown_timeout) + GRACE_SECONDS,
                ws="none",
            )
        )
        self._operation = operation
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if self._on_ready is None:
            return
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                self._on_ready(
                    f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
                )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, and wait for what runs."""
        self._operation.stop()
        await super().shutdown(sockets)

    def stop(self) -> None:
        """Shut down; from any thread."""
        self.should_exit = True


class Server(AppServer):
    """Uvicorn with the application that has models.

    Args:
        models: See create_app.
        settings: See create_app.
        host: See AppServer.
        port: See AppServer.
        on_ready: See AppServer.
        uds: See AppServer.
    """

    def __init__(
        self,
        models: Models,
        settings: Settings,
        host: str = "127.0.0.1",
        port: int = 8080,
        on_ready: Callable[[str], None] | None = None,
        uds: str | None = None,
    ) -> None:
        app = create_app(models, settings)
        super().__init__(app, state_of(app), host, port, uds, on_ready)


def serve(server: AppServer) -> None:
    """Run a server in this thread until SIGINT or SIGTERM, or until it is stopped."""
    with _signals_end_here():
        server.run()


@contextmanager
def _signals_end_here() -> Iterator[None]:
    """Uvicorn raises the signals again that ended it; being asked to stop is no failure."""
    before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
