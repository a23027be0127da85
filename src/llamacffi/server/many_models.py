"""Several models: loaded when they are asked for, unloaded when they are idle or room is needed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from llamacffi import aio
from llamacffi.errors import ParameterError
from llamacffi.server.errors import StoppingError
from llamacffi.server.memory_room import MemoryRoom, Need
from llamacffi.server.model_place import ModelPlace, unavailable
from llamacffi.server.models import (
    LOADING_RETRY_SECONDS,
    ModelCondition,
    Models,
    ServedModel,
    unknown_model,
)

if TYPE_CHECKING:
    from llamacffi.engine import AsyncEngine
    from llamacffi.server.model_spec import ModelSpec

__all__ = ["ManyModels"]

_log = logging.getLogger("llamacffi.server")


class ManyModels(Models):
    """Models by name: a request's name is looked up here, and is never a path or an address.

    A request for a model that is not loaded waits until it is; others that come meanwhile wait for
    the same load. Before a load, models that nobody uses are unloaded, the least recently used
    first, until there are fewer than `models_max` and the estimated memory is there; one that is
    used is never unloaded.

    Args:
        specs: The models; the first one answers requests that name none.
        models_max: Most models that are loaded at a time; None for any number.
        idle_timeout: Seconds after which a model that nobody uses is unloaded; None for never.
        load_timeout: Most seconds that a request waits for a model; after that it gets 503, and
            the load goes on.
        retry_seconds: How long a model that could not be loaded is not tried again; twice as long
            with each failure, up to five minutes.
        memory: Measures memory.
        load: Loads a model.

    Raises:
        ParameterError: A name is there twice, or a model could never be loaded.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        *,
        models_max: int | None = None,
        idle_timeout: float | None = None,
        load_timeout: float = 120.0,
        retry_seconds: float = 5.0,
        memory: MemoryRoom | None = None,
        load: Callable[[ModelSpec], Awaitable[AsyncEngine]] = lambda spec: spec.loading(),
    ) -> None:
        _check(specs, models_max, idle_timeout, load_timeout)
        self._places = [ModelPlace(spec, retry_seconds) for spec in specs]
        self._by_name = {name: place for place in self._places for name in place.spec.names}
        self._models_max = models_max
        self._idle_timeout = idle_timeout
        self._load_timeout = load_timeout
        self._memory = memory or MemoryRoom()
        self._load = load
        self._closing = False
        self._making_room = asyncio.Lock()
        self._left = asyncio.Event()  # set when somebody no longer uses a model
        self._starting: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to load those that are wanted from the start."""
        for place in self._places:
            if place.spec.preload or place.spec.pinned:
                task = self._loading(place, wanted=True)
                self._starting.add(task)
                task.add_done_callback(self._starting.discard)

    # -- requests -----------------------------------------------------------------------------

    async def get(self, name: str | None) -> ServedModel:
        """The model with this name, loaded if it is not."""
        place = self._places[0] if name is None else self._by_name.get(name)
        if place is None:
            raise unknown_model(str(name))
        if place.idle is not None:
            place.idle.cancel()
        place.n_users += 1  # also while it waits, so that it finds the model when it wakes up
        try:
            return await self._loaded(place)
        except BaseException:
            self._leave(place)
            raise

    async def _loaded(self, place: ModelPlace) -> ServedModel:
        deadline = time.monotonic() + self._load_timeout
        failures = place.n_failures
        while place.served is None:
            if self._closing:
                raise StoppingError
            if place.is_resting or place.n_failures != failures:
                raise place.refusal()
            task = place.unloading or place.loading or self._loading(place)
            await asyncio.wait({task}, timeout=max(0.0, deadline - time.monotonic()))
            if not task.done():
                raise unavailable(
                    f"The model {place.spec.id!r} is not loaded yet, or waits until another one "
                    "can be unloaded. Try again soon.",
                    "model_loading",
                    LOADING_RETRY_SECONDS,
                )
        return place.served

    def release(self, served: ServedModel) -> None:
        """A request is done; after the last one, the time until the model is unloaded begins."""
        self._leave(self._by_name[served.id])

    def _leave(self, place: ModelPlace) -> None:
        place.n_users -= 1
        place.used = time.monotonic()
        if place.n_users:
            return
        self._left.set()
        self._rest(place)

    def _rest(self, place: ModelPlace) -> None:
        """Nobody uses it: unload it after a while."""
        if self._idle_timeout is not None and place.can_leave and not self._closing:
            loop = asyncio.get_running_loop()
            place.idle = loop.call_later(self._idle_timeout, self._unload_idle, place)

    def _unload_idle(self, place: ModelPlace) -> None:
        if place.can_leave and not self._closing:
            self._unloading(place)

    # -- loading ------------------------------------------------------------------------------

    def _loading(self, place: ModelPlace, wanted: bool = False) -> asyncio.Task[None]:
        place.loading = asyncio.create_task(self._run_load(place, wanted))
        return place.loading

    async def _run_load(self, place: ModelPlace, wanted: bool) -> None:
        """Load a model; `wanted` also if no request waits for it."""
        begun = time.monotonic()
        try:
            need = await aio.run(self._memory.needed, place.spec)
            async with self._making_room:  # one after the other, in the order they came
                if not await self._make_room(need, lambda: wanted or place.n_users > 0):
                    return
                place.need = need
            engine = await self._load(place.spec)
        except BaseException as error:
            place.need = None
            if isinstance(error, asyncio.CancelledError):
                raise
            place.failed(error)
            _log.error("The model %r could not be loaded: %s", place.spec.id, str(error))
        else:
            place.loaded(ServedModel(engine, place.spec.id, place.spec.aliases))
            seconds = time.monotonic() - begun
            _log.info("The model %r was loaded in %.1f s.", place.spec.id, seconds)
        finally:
            place.loading = None
            place.used = time.monotonic()
            self._left.set()
            if not place.n_users:
                self._rest(place)

    async def _make_room(self, need: Need, wanted: Callable[[], bool]) -> bool:
        """Unload models until there is room; False if nobody wants it any more."""
        while wanted():
            self._left.clear()
            if self._too_many():
                leaving = self._longest_unused(lambda _: True)
            elif self._too_little_memory(need):
                leaving = self._longest_unused(lambda other: other.on_device == need.on_device)
                if leaving is None and not self._may_leave_later(need):
                    return True  # the estimate is rough, and nothing more can be done
            else:
                return True
            if leaving is None:
                await self._left.wait()
            else:
                await asyncio.wait({self._unloading(leaving)})
        return False

    def _too_many(self) -> bool:
        present = sum(place.need is not None for place in self._places)
        return self._models_max is not None and present >= self._models_max

    def _too_little_memory(self, need: Need) -> bool:
        taken = 0
        for place in self._places:
            other = place.need
            if other is None or other.on_device != need.on_device:
                continue
            if place.served is None:
                taken += other.total  # it is being loaded
            elif not other.on_device:
                taken += other.weights
        return self._memory.available(need) - taken < need.total

    def _may_leave_later(self, need: Need) -> bool:
        """Whether a model is used, loaded or unloaded now where another one is to go."""
        return any(
            place.need.on_device == need.on_device
            for place in self._places
            if place.need is not None and not place.spec.pinned
        )

    def _longest_unused(self, fits: Callable[[Need], bool]) -> ModelPlace | None:
        idle = [
            place
            for place in self._places
            if place.can_leave and place.need is not None and fits(place.need)
        ]
        return min(idle, key=lambda place: place.used, default=None)

    # -- unloading ----------------------------------------------------------------------------

    def _unloading(self, place: ModelPlace) -> asyncio.Task[None]:
        served, place.served = place.served, None
        assert served is not None
        if place.idle is not None:
            place.idle.cancel()
        place.unloading = asyncio.create_task(self._run_unload(place, served, 0.0))
        return place.unloading

    async def _run_unload(self, place: ModelPlace, served: ServedModel, timeout: float) -> None:
        try:
            try:
                await served.engine.aclose(timeout=timeout)
            finally:
                await asyncio.to_thread(served.engine.model.close)
            _log.info("The model %r was unloaded.", place.spec.id)
        except Exception:
            _log.exception("The model %r could not be unloaded.", place.spec.id)
        finally:
            place.need, place.unloading = None, None
            place.n_unloads += 1
            self._left.set()

    async def close(self, timeout: float) -> None:
        """Give up loading, and close all; each has so many seconds to finish."""
        self._closing = True
        for place in self._places:
            if place.idle is not None:
                place.idle.cancel()
            if place.loading is not None:
                place.loading.cancel()
        tasks = [task for place in self._places for task in (place.loading, place.unloading)]
        await asyncio.gather(*filter(None, tasks), return_exceptions=True)
        closing = []
        for place in self._places:
            served, place.served = place.served, None
            if served is not None:
                closing.append(self._run_unload(place, served, timeout))
        await asyncio.gather(*closing)

    # -- facts --------------------------------------------------------------------------------

    def present(self) -> Sequence[ServedModel]:
        """Those that are loaded."""
        return [place.served for place in self._places if place.served is not None]

    def described(self) -> list[dict[str, Any]]:
        """All, with their state."""
        return [place.described() for place in self._places]

    def conditions(self) -> Sequence[ModelCondition]:
        """How each is."""
        return [place.condition() for place in self._places]

    @property
    def starting(self) -> bool:
        """Whether one of those is still being loaded that are wanted from the start."""
        return bool(self._starting)

    @property
    def failure(self) -> str | None:
        """The last failure, if no model at all could be loaded."""
        failures = [place.failure for place in self._places if place.state == "failed"]
        return failures[-1] if len(failures) == len(self._places) else None


def _check(
    specs: Sequence[ModelSpec],
    models_max: int | None,
    idle_timeout: float | None,
    load_timeout: float,
) -> None:
    if not specs:
        raise ParameterError("There is no model to serve. Name at least one.")
    counted = Counter(name for spec in specs for name in set(spec.names))
    twice = [name for name, count in counted.items() if count > 1]
    if twice:
        raise ParameterError(f"{twice[0]}: two models have this name. Give one of them another.")
    n_pinned = sum(spec.pinned for spec in specs)
    least = n_pinned + (n_pinned < len(specs))
    if models_max is not None and models_max < least:
        raise ParameterError(
            f"models_max={models_max}: choose {least} or more; {n_pinned} are pinned, and never "
            "make room."
        )
    if idle_timeout is not None and not idle_timeout >= 0:
        raise ParameterError(f"idle_timeout={idle_timeout}: choose 0 or more, or None.")
    if not load_timeout > 0:
        raise ParameterError(f"load_timeout={load_timeout}: choose more than 0.")
