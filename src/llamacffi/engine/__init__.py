"""Many requests in one context: continuous batching."""

from llamacffi.engine.async_engine import AsyncEngine
from llamacffi.engine.branch import Branch
from llamacffi.engine.engine import Engine
from llamacffi.engine.stats import EngineStats

__all__ = ["AsyncEngine", "Branch", "Engine", "EngineStats"]
