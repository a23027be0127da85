"""How an engine is made, in words that another process understands, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamacffi.engine import AsyncEngine
    from llamacffi.fitting import Fit

__all__ = ["Loading"]


@dataclass(frozen=True)
class Loading:
    """Loads a model and makes an engine of it.

    Attributes:
        model: A path, an alias, or `hf:owner/repo/file.gguf`.
        model_options: Further arguments of Model.
        engine_options: Further arguments of Engine.
    """

    model: str
    model_options: Mapping[str, Any] = field(default_factory=dict)
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    async def __call__(self) -> AsyncEngine:
        """Load it, in a thread; a cancelled task leaves nothing behind."""
        from llamacffi import aio

        made: list[AsyncEngine] = []
        try:
            await aio.run(lambda: made.append(self._made()))
        except BaseException:
            for engine in made:  # it was done just when the task was cancelled
                engine.model.close()
            raise
        return made[0]

    def _made(self) -> AsyncEngine:
        from llamacffi.engine import AsyncEngine, Engine
        from llamacffi.model import Model
        from llamacffi.opening import open_fitted

        _, engine = open_fitted(
            lambda fit: Model(self.model, **self.model_options, fit=fit),
            lambda model: AsyncEngine(Engine(model, **self.engine_options)),
            self.fit,
        )
        return engine

    @property
    def fit(self) -> Fit:
        """What n_gpu_layers="auto" leaves room for: the engine's context."""
        from llamacffi.engine.engine import planned_fit

        return planned_fit(self.engine_options)
