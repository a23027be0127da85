"""One page of metrics for all processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

__all__ = ["merged"]

FRONT = "front"
ONCE = "llamacffi_http_"  # requests are counted where they are accepted


def merged(front: str, workers: Mapping[str, str]) -> bytes:
    """The pages of all processes as one, with a label `worker`.

    Args:
        front: The page of the process that listens.
        workers: The workers' by name.
    """
    families: dict[str, Metric] = {}
    for worker, page in {FRONT: front, **workers}.items():
        for family in text_string_to_metric_families(page):
            once = family.name.startswith(ONCE)
            if once and worker != FRONT:
                continue
            label = {} if once else {"worker": worker}
            known = families.setdefault(family.name, _empty(family))
            known.samples += (
                sample._replace(labels={**label, **sample.labels}) for sample in family.samples
            )
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry)


def _empty(family: Metric) -> Metric:
    return Metric(family.name, family.documentation, family.type)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._families
