"""GET /: a page to chat in, from the files of a folder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles

if TYPE_CHECKING:
    from starlette.types import Scope

__all__ = ["add_chat_page", "paths_of"]

# What a model writes is shown on this page: even if some of it became a script, it would not run.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    # Asked for again each time, which costs a 304 with the ETag: after an upgrade all files fit.
    "Cache-Control": "no-cache",
}
# The system's own table, which the standard library believes, may say that scripts are text.
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        kind = TYPES.get(Path(path).suffix)
        if kind is not None and response.status_code == 200:
            response.headers["Content-Type"] = f"{kind}; charset=utf-8"
        response.headers.update(HEADERS)
        return response


def add_chat_page(app: FastAPI, folder: Path | None) -> None:
    """Serve the files of a folder at /.

    Each has a route: a folder mounted at / would answer for the addresses of others.

    Args:
        app: The application.
        folder: The folder; nothing is served for None, or one that is not there.
    """
    names = _names_of(folder)
    if not names:
        return
    files = _Files(directory=folder)
    for path, name in names.items():
        send = _sender(files, name)
        app.add_api_route(path, send, methods=["GET", "HEAD"], include_in_schema=False)


def paths_of(folder: Path | None) -> Collection[str]:
    """The paths of a page's files, for which no API key is needed."""
    return _names_of(folder)


def _names_of(folder: Path | None) -> dict[str, str]:
    """Paths in addresses to those in the folder."""
    if folder is None or not folder.is_dir():
        return {}
    files = (file for file in folder.rglob("*") if file.is_file())
    names = [file.relative_to(folder).as_posix() for file in files]
    found = {f"/{name}": name for name in names}
    if "/index.html" in found:
        found["/"] = "index.html"
    return found


def _sender(files: _Files, name: str) -> Callable[[Request], Awaitable[Response]]:
    async def send(request: Request) -> Response:
        return await files.get_response(name, request.scope)

    return send
