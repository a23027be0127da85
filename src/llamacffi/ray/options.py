"""What a process on a cluster is to load, and what it takes of its machine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llamacffi.engine import Engine
from llamacffi.errors import ParameterError
from llamacffi.model import Model

__all__ = ["EngineOptions", "ServeOptions"]


@dataclass(frozen=True)
class EngineOptions:
    """An engine and what it takes of a machine.

    Attributes:
        model: A path that is the same on every machine, or a reference that each fetches for
            itself and keeps, such as an alias or "hf:owner/repo/file.gguf".
        n_threads: Threads that compute, and the processors that Ray reserves for them: so two
            processes never share a processor.
        num_gpus: Graphics processors that Ray reserves; parts of one are possible. Ray shows the
            process no others.
        model_params: More arguments of `Model`, such as `{"n_gpu_layers": 20}`.
        engine_params: More arguments of `Engine`, such as `{"n_parallel": 16, "n_ctx": 16384}`.

    Raises:
        ParameterError: A number out of its range, or an argument that they do not have or that is
            said by another attribute.
    """

    model: str
    n_threads: int
    num_gpus: float = 0.0
    model_params: Mapping[str, Any] = field(default_factory=dict)
    engine_params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.n_threads, bool) or not (
            isinstance(self.n_threads, int) and self.n_threads >= 1
        ):
            raise ParameterError(f"n_threads={self.n_threads!r}: give a whole number from 1.")
        if self.num_gpus < 0:
            raise ParameterError(f"num_gpus={self.num_gpus}: give 0 or more.")
        _check_names("model_params", self.model_params, Model, "path")
        _check_names("engine_params", self.engine_params, Engine, "model", "n_threads")

    @property
    def resources(self) -> dict[str, float]:
        """What Ray is to reserve for each process, in its own words."""
        return {"num_cpus": self.n_threads, "num_gpus": self.num_gpus}

    @property
    def n_parallel(self) -> int:
        """Requests that are computed at a time."""
        default = inspect.signature(Engine).parameters["n_parallel"].default
        return int(self.engine_params.get("n_parallel", default))

    def open(self) -> Engine:
        """Load the model and make the engine, in the process that computes.

        Close the engine first, then its model.
        """
        model = Model(self.model, **self.model_params)
        try:
            return Engine(model, n_threads=self.n_threads, **self.engine_params)
        except BaseException:
            model.close()
            raise


@dataclass(frozen=True)
class ServeOptions:
    """How an engine is served.

    Attributes:
        engine: What each replica loads.
        num_replicas: How many replicas; without meaning where `autoscaling_config` is given.
        autoscaling_config: Ray Serve's, such as `{"min_replicas": 1, "max_replicas": 8}`; None for
            a fixed number. `target_ongoing_requests` is the engine's n_parallel if it is not named.
        max_ongoing_requests: Requests that a replica is given at a time; None for twice the
            engine's n_parallel, so that one is at hand when another is over.
        max_queued_requests: Requests that wait for a replica in each client; more end with
            `BusyError`. -1 for any number.
        health_check_period_s: Seconds between two questions to a replica whether it can work.
        graceful_shutdown_timeout_s: Seconds that a replica which is to go has for its requests.
        name: The deployment's name, and the model's in HTTP.
    """

    engine: EngineOptions
    num_replicas: int = 1
    autoscaling_config: Mapping[str, Any] | None = None
    max_ongoing_requests: int | None = None
    max_queued_requests: int = -1
    health_check_period_s: float = 10.0
    graceful_shutdown_timeout_s: float = 60.0
    name: str = "llamacffi"

    def __post_init__(self) -> None:
        if self.num_replicas < 1:
            raise ParameterError(f"num_replicas={self.num_replicas}: choose 1 or more.")

    @property
    def scale(self) -> dict[str, Any]:
        """How many replicas there are, in Ray Serve's words."""
        if self.autoscaling_config is None:
            return {"num_replicas": self.num_replicas}
        usual = {"target_ongoing_requests": self.engine.n_parallel}
        return {"autoscaling_config": {**usual, **self.autoscaling_config}}


def _check_names(
    attribute: str, given: Mapping[str, Any], taker: Callable[..., Any], *said: str
) -> None:
    known = inspect.signature(taker).parameters.keys() - set(said)
    wrong = sorted(given.keys() - known)
    if wrong:
        raise ParameterError(
            f"{attribute}: {', '.join(wrong)} cannot be given here. There are: "
            f"{', '.join(sorted(known))}."
        )
