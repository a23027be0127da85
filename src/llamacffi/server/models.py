"""From the name in a request to the engine that answers it.

The rest of the server knows `Models` only: what loads on demand, has several models or other
processes behind it is another subclass.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llamacffi.server.errors import SERVER, ApiError

if TYPE_CHECKING:
    from llamacffi.engine import AsyncEngine

__all__ = ["ModelCondition", "Models", "OneModel", "ServedModel", "unknown_model"]

LOADING_RETRY_SECONDS = 2
_log = logging.getLogger("llamacffi.server")


@dataclass(frozen=True)
class ModelCondition:
    """How a model is.

    Attributes:
        id: Its name.
        state: "loaded", "loading", "unloaded" or "failed".
        n_users: Requests that use it or wait for it.
        n_loads: How often it was loaded.
        n_failures: How often it could not be loaded.
        n_unloads: How often it was unloaded.
    """

    id: str
    state: str
    n_users: int
    n_loads: int
    n_failures: int
    n_unloads: int


@dataclass(frozen=True)
class ServedModel:
    """A model under the names that requests may use.

    Attributes:
        engine: What computes.
        id: Its name in answers.
        aliases: More names.
        created: When it was made available, in seconds since 1970.
    """

    engine: AsyncEngine
    id: str
    aliases: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    def described(self) -> dict[str, Any]:
        """OpenAI's description of a model, with some facts."""
        model = self.engine.model
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": "llamacffi",
            "aliases": list(self.aliases),
            "state": "loaded",
            "meta": {
                "description": model.description,
                "n_ctx_train": model.n_ctx_train,
                "n_embd": model.n_embd,
                "n_params": model.n_params,
                "n_vocab": model.vocab.n_tokens,
                "size": model.size,
            },
        }


class Models(ABC):
    """The models that a server has; made before the event loop, used in it."""

    @abstractmethod
    async def start(self) -> None:
        """Get ready; called when the server starts, and has to return at once."""

    @abstractmethod
    async def get(self, name: str | None) -> ServedModel:
        """The model for a request, which is given back with `release` after its last token.

        Args:
            name: What the request says; None for the one that answers those that say nothing.

        Raises:
            ApiError: No model has this name (404), or it cannot be had now (503).
        """

    @abstractmethod
    def release(self, served: ServedModel) -> None:
        """Say that a request is done with a model."""

    @abstractmethod
    def present(self) -> Sequence[ServedModel]:
        """Those that are loaded."""

    @abstractmethod
    def described(self) -> list[dict[str, Any]]:
        """OpenAI's list of models: all that a request may name."""

    def conditions(self) -> Sequence[ModelCondition]:
        """How each of several is; none where there is only one."""
        return ()

    @property
    def starting(self) -> bool:
        """Whether models are still being loaded that have to be there."""
        return not self.present()

    @property
    @abstractmethod
    def failure(self) -> str | None:
        """Why nothing can be answered; None if all is well or a model is still being loaded."""

    @abstractmethod
    async def close(self, timeout: float) -> None:
        """Finish or cancel what runs within so many seconds, and free the models."""


class OneModel(Models):
    """One model, loaded when the server starts.

    Args:
        load: Loads it.
        id: Its name.
        aliases: More names.
        on_failure: Called with the error when it cannot be loaded.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[AsyncEngine]],
        id: str,  # noqa: A002 - OpenAI's word
        aliases: Sequence[str] = (),
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._load = load
        self._names = (id, *aliases)
        self._on_failure = on_failure
        self._loading: asyncio.Task[None] | None = None
        self._served: ServedModel | None = None
        self._failure: str | None = None

    @classmethod
    def loaded(
        cls,
        engine: AsyncEngine,
        id: str,  # noqa: A002 - OpenAI's word
        aliases: Sequence[str] = (),
    ) -> OneModel:
        """One that is there already."""

        async def load() -> AsyncEngine:
            return engine

        made = cls(load, id, aliases)
        made._take(engine)
        return made

    async def start(self) -> None:
        """Begin to load it."""
        if self._loading is None and self._served is None:
            self._loading = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            engine = await self._load()
        except Exception as error:
            self._failure = f"The model could not be loaded: {error}"
            _log.error("%s", self._failure)
            if self._on_failure is not None:
                self._on_failure(error)
        else:
            self._take(engine)

    def _take(self, engine: AsyncEngine) -> None:
        name, *aliases = self._names
        self._served = ServedModel(engine, name, tuple(aliases))

    async def get(self, name: str | None) -> ServedModel:  # noqa: ARG002 - others look at it
        """The model, if it is there, whatever the request calls it.

        There is no other one that could be meant, and clients tend to send a name that they were
        written with; the answer says what has answered.
        """
        if self._served is None:
            raise ApiError(
                503,
                self._failure or "The model is being loaded. Try again soon.",
                kind=SERVER,
                code="model_unavailable" if self._failure else "model_loading",
                headers={"Retry-After": str(LOADING_RETRY_SECONDS)},
            )
        return self._served

    def release(self, served: ServedModel) -> None:
        """Nothing: it stays loaded."""

    def present(self) -> Sequence[ServedModel]:
        """The model, if it is loaded."""
        return () if self._served is None else (self._served,)

    def described(self) -> list[dict[str, Any]]:
        """The model."""
        return [served.described() for served in self.present()]

    @property
    def failure(self) -> str | None:
        """Why it could not be loaded, or cannot be used any more."""
        if self._served is not None and self._served.engine.model.broken:
            return "The model was given up: a machine that computes for it is lost."
        return self._failure

    async def close(self, timeout: float) -> None:
        """Close the engine, or give up loading."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        served, self._served = self._served, None
        if served is not None:
            await served.engine.aclose(timeout=timeout)


def unknown_model(name: str) -> ApiError:
    """No model has this name."""
    return ApiError(
        404,
        f"The model {name!r:.100} does not exist: see GET /v1/models.",
        param="model",
        code="model_not_found",
    )
