"""The ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

import llamacffi
from llamacffi.server.api_page import add_api_page
from llamacffi.server.chat import add_chat
from llamacffi.server.chat_page import add_chat_page
from llamacffi.server.completions import add_completions
from llamacffi.server.describing import describe
from llamacffi.server.errors import ApiError
from llamacffi.server.health import add_health
from llamacffi.server.layers import OPEN_PATHS, add_layers
from llamacffi.server.models import Models, OneModel
from llamacffi.server.settings import Settings
from llamacffi.server.state import State
from llamacffi.server.tokens import add_tokens
from llamacffi.server.vectors import add_vectors

if TYPE_CHECKING:
    from llamacffi.engine import AsyncEngine

__all__ = ["create_app", "state_of"]

FIELDS_MAX = 256  # far more than there are; each that is unknown costs memory


def create_app(
    models: Models | AsyncEngine, settings: Settings | None = None, *, name: str = "llamacffi"
) -> FastAPI:
    """An application with OpenAI's interface, for any ASGI server or to be mounted in another one.

    Its lifespan loads the models and closes them; one that is mounted in another application is
    to be entered by that one's: `async with app.router.lifespan_context(app):`.

    Args:
        models: An engine, or models by name.
        settings: See Settings.
        name: An engine's name as a model.
    """
    settings = settings or Settings()
    if not isinstance(models, Models):
        models = OneModel.loaded(models, name)
    state = State(models, settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await models.start()
        try:
            yield
        finally:
            state.stop()
            await models.close(timeout=settings.shutdown_timeout)

    app = FastAPI(
        title="llamacffi",
        version=llamacffi.__version__,
        description="GGUF language models with OpenAI's interface.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.llamacffi = state
    app.include_router(make_router(state))
    add_api_page(app)
    add_chat_page(app, settings.page)
    describe(app, bool(settings.api_keys), OPEN_PATHS)
    add_layers(app, state)
    return app


def make_router(state: State) -> APIRouter:
    """The routes, without those of the pages."""
    router = APIRouter(route_class=_Route)
    for add in (add_chat, add_completions, add_vectors, add_tokens, add_health):
        add(router, state)
    return router


def state_of(app: FastAPI) -> State:
    """The state of an application that create_app made."""
    state = app.state.llamacffi
    assert isinstance(state, State)
    return state


class _Request(Request):
    async def json(self) -> Any:
        # Unlike the standard library's, this refuses half of a surrogate pair, NaN, and nesting
        # that exhausts the stack.
        if not hasattr(self, "_json"):
            self._json = orjson.loads(await self.body())
            if isinstance(self._json, dict) and len(self._json) > FIELDS_MAX:
                raise ApiError(400, f"The request has more than {FIELDS_MAX} fields.")
        return self._json


class _Route(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handling(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return handling
