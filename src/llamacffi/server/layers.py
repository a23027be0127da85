"""What is around every application: request ids, origins, keys, limits, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from llamacffi.errors import LlamaCffiError
from llamacffi.server.answers import error_response
from llamacffi.server.auth import Gate, Keys
from llamacffi.server.chat_page import paths_of
from llamacffi.server.limits import Limits
from llamacffi.server.passing import Passing
from llamacffi.server.scope import passage_of

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from llamacffi.server.state import Operation

__all__ = ["OPEN_PATHS", "add_layers"]

OPEN_PATHS = ("/health", "/docs", "/openapi.json", "/")


def add_layers(app: Starlette, operation: Operation) -> None:
    """Add the layers to an application.

    Args:
        app: The application.
        operation: What its parts share.
    """
    settings = operation.settings
    for kind in (HTTPException, RequestValidationError, LlamaCffiError):
        app.add_exception_handler(kind, _answer_error)
    # The last one is the outermost.
    app.add_middleware(Limits, state=operation)
    app.add_middleware(
        Gate,
        keys=Keys(settings.api_keys),
        hosts=settings.allowed_hosts,
        open_paths=(*OPEN_PATHS, *paths_of(settings.page)),
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(Passing, state=operation)


async def _answer_error(request: Request, error: Exception) -> Response:
    return error_response(error, passage_of(request.scope).request_id)
