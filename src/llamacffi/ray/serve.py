"""Ray Serve applications: an engine with replicas, and the same behind HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray import serve

from llamacffi.errors import ParameterError
from llamacffi.ray.http import Front
from llamacffi.ray.options import ServeOptions
from llamacffi.ray.replica import EngineReplica

if TYPE_CHECKING:
    from ray.serve import Application

__all__ = ["application", "http_application"]

# How many requests one front passes on; it only waits for them.
FRONT_REQUESTS = 1000


def application(options: ServeOptions) -> Application:
    """An engine with replicas, for `serve.run`; ask it through `EngineClient`.

    Args:
        options: What is loaded, and how often.
    """
    most = options.max_ongoing_requests
    deployment = serve.deployment(
        EngineReplica,
        name=options.name,
        max_ongoing_requests=2 * options.engine.n_parallel if most is None else most,
        max_queued_requests=options.max_queued_requests,
        health_check_period_s=options.health_check_period_s,
        graceful_shutdown_timeout_s=options.graceful_shutdown_timeout_s,
        ray_actor_options=options.engine.resources,
        **options.scale,
    )
    return deployment.bind(options.engine)


def http_application(options: ServeOptions, *, n_fronts: int = 1) -> Application:
    """The same with OpenAI's interface over HTTP, at Ray Serve's own port.

    Args:
        options: What is loaded, and how often.
        n_fronts: Processes that take requests and pass them on to the replicas. They load no
            model; a request that one of them had when it died is lost.
    """
    if n_fronts < 1:
        raise ParameterError(f"n_fronts={n_fronts}: choose 1 or more.")
    front = serve.deployment(
        Front,
        name=f"{options.name}-http",
        num_replicas=n_fronts,
        max_ongoing_requests=FRONT_REQUESTS,
        ray_actor_options={"num_cpus": 0},  # it waits, and computes nothing
    )
    return front.bind(application(options), options.name)
