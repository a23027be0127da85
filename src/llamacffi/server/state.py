"""What the parts of one application share."""

from __future__ import annotations

import asyncio

from llamacffi.server.errors import StoppingError
from llamacffi.server.metrics import Engines, Metrics
from llamacffi.server.models import Models
from llamacffi.server.settings import Settings

__all__ = ["Operation", "State"]


class Operation:
    """The settings and metrics of an application, and whether it is to stop.

    Args:
        settings: Its settings.
        metrics: Its metrics.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.stopping = False
        self._time_is_up = asyncio.Event()

    def stop(self) -> None:
        """Take no more requests, and end those that run when their time is up."""
        if not self.stopping:
            self.stopping = True
            loop = asyncio.get_running_loop()
            loop.call_later(self.settings.shutdown_timeout, self._time_is_up.set)

    async def stopped(self) -> None:
        """Wait until running requests have to end.

        Raises:
            StoppingError: They have.
        """
        await self._time_is_up.wait()
        raise StoppingError


class State(Operation):
    """What the parts of an application share that has models.

    Args:
        models: Its models.
        settings: Its settings.
    """

    def __init__(self, models: Models, settings: Settings) -> None:
        super().__init__(settings, Metrics(Engines(models)))
        self.models = models
