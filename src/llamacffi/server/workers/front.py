"""The process that listens: the application in front of the workers, and its server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llamacffi.errors import UnsupportedError
from llamacffi.server.answers import Json
from llamacffi.server.layers import add_layers
from llamacffi.server.metrics import CONTENT_TYPE, Metrics
from llamacffi.server.run import AppServer
from llamacffi.server.state import Operation
from llamacffi.server.workers.condition import condition
from llamacffi.server.workers.figures import Figures
from llamacffi.server.workers.merging import merged
from llamacffi.server.workers.process import Phase, WorkerProcess, fetched
from llamacffi.server.workers.proxy import Proxy
from llamacffi.server.workers.routes import address_of
from llamacffi.server.workers.spec import WorkerSpec, WorkersPolicy
from llamacffi.server.workers.supervisor import Supervisor
from llamacffi.server.workers.upstream import LostError

__all__ = ["FrontServer"]

METRICS_SECONDS = 5.0


class FrontServer(AppServer):
    """Uvicorn with an application that has others answer.

    Args:
        spec: What the workers serve.
        policy: How many there are, and how they are kept.
        host: See AppServer.
        port: See AppServer.
        on_ready: See AppServer.

    Raises:
        UnsupportedError: The system has no Unix-domain sockets that asyncio knows.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        policy: WorkersPolicy,
        host: str = "127.0.0.1",
        port: int = 8080,
        on_ready: Callable[[str], None] | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise UnsupportedError(
                f"{policy.n_workers} workers were asked for, which need Unix-domain sockets: on "
                "Windows there is one process."
            )
        self._supervisor = Supervisor(spec, policy, lambda _: self.stop())
        operation = _FrontOperation(spec, self._supervisor)
        app = _create_front(self._supervisor, operation)
        super().__init__(app, operation, host, port, on_ready=on_ready)

    @property
    def failure(self) -> str | None:
        """Why it gave up; None if it did not."""
        return self._supervisor.failure


class _FrontOperation(Operation):
    """The front's; the workers stop with it."""

    def __init__(self, spec: WorkerSpec, supervisor: Supervisor) -> None:
        super().__init__(spec.settings, Metrics(Figures(supervisor)))
        self._supervisor = supervisor

    def stop(self) -> None:
        super().stop()
        self._supervisor.stop()


def _create_front(supervisor: Supervisor, operation: Operation) -> Starlette:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        supervisor.start()
        try:
            yield
        finally:
            operation.stop()
            await supervisor.close()

    async def health(request: Request) -> Response:
        request.scope["route"] = address_of(request.scope["path"])
        status, body = condition(
            supervisor.workers, operation.stopping, supervisor.failure is not None
        )
        return Json(body, status)

    async def metrics(request: Request) -> Response:
        request.scope["route"] = address_of(request.scope["path"])
        processes = supervisor.processes(Phase.READY)
        pages = await asyncio.gather(*map(_metrics_of, processes))
        named = {str(one.number): page for one, page in zip(processes, pages, strict=True)}
        whole = merged(operation.metrics.page().decode(), named)
        return Response(whole, headers={"Content-Type": CONTENT_TYPE})

    app = Starlette(
        routes=[
            Route("/health", health, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/{path:path}", Proxy(supervisor, operation)),
        ],
        lifespan=lifespan,
    )
    add_layers(app, operation)
    return app


async def _metrics_of(process: WorkerProcess) -> str:
    """A worker's page of metrics; an empty one if it cannot be had."""
    try:
        _, page = await fetched(process.socket, b"/metrics", METRICS_SECONDS)
    except LostError:
        return ""
    return page.decode()
