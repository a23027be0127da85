"""What GET /metrics reports, in Prometheus' format."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from llamacffi.server.models import ModelCondition, Models

__all__ = ["CONTENT_TYPE", "Engines", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """The figures of one application, in a registry of their own.

    Args:
        more: What else is asked for its figures.
    """

    def __init__(self, more: Collector) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "llamacffi_http_requests",
            "Requests that were answered.",
            ("route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "llamacffi_http_request_seconds",
            "From a request's head to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._first = Histogram(
            "llamacffi_first_token_seconds",
            "From a request's head to the first piece of text of its stream.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.open = Gauge(
            "llamacffi_http_requests_open",
            "Requests that are being answered.",
            registry=self._registry,
        )
        self.ended = Counter(
            "llamacffi_streams_ended_early",
            "Streams and calls that were given up, by reason.",
            ("reason",),
            registry=self._registry,
        )
        self._registry.register(more)
        ProcessCollector(registry=self._registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def first_token(self, route: str, seconds: float) -> None:
        """Count a stream whose first text was sent."""
        self._first.labels(route).observe(seconds)

    def page(self) -> bytes:
        """Prometheus' text."""
        return generate_latest(self._registry)


class Engines(Collector):
    """The figures of engines, which are asked when somebody asks.

    Args:
        models: Whose engines these are.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    def describe(self) -> list[Metric]:
        """Nothing beforehand."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Their figures now."""
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for served in self._models.present():
            now = dataclasses.asdict(served.engine.stats())
            totals = now.pop("totals")
            for make, numbers in ((GaugeMetricFamily, now), (CounterMetricFamily, totals)):
                for name, value in numbers.items():
                    if name not in families:
                        words = f"EngineStats: {name}"
                        full = f"llamacffi_engine_{name}"
                        families[name] = make(full, words, labels=("model",))
                    families[name].add_metric((served.id,), value)
        yield from families.values()
        yield from _loads(self._models.conditions())


def _loads(conditions: Sequence[ModelCondition]) -> Iterator[Metric]:
    """How each of several models is."""
    state = GaugeMetricFamily(
        "llamacffi_model_state", "1 for the state that a model is in.", labels=("model", "state")
    )
    users = GaugeMetricFamily(
        "llamacffi_model_users", "Requests that use it or wait for it.", labels=("model",)
    )
    loads = CounterMetricFamily(
        "llamacffi_model_loads", "Loads and unloads, by result.", labels=("model", "result")
    )
    for model in conditions:
        state.add_metric((model.id, model.state), 1)
        users.add_metric((model.id,), model.n_users)
        loads.add_metric((model.id, "loaded"), model.n_loads)
        loads.add_metric((model.id, "failed"), model.n_failures)
        loads.add_metric((model.id, "unloaded"), model.n_unloads)
    if conditions:
        yield from (state, users, loads)
