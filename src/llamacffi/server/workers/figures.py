"""What GET /metrics says about the workers as such."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llamacffi.server.workers.process import Phase

if TYPE_CHECKING:
    from llamacffi.server.workers.supervisor import Supervisor

__all__ = ["Figures"]


class Figures(Collector):
    """The figures of a supervisor, which is asked when somebody asks.

    Args:
        supervisor: Has the workers.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def describe(self) -> list[Metric]:
        """Nothing beforehand."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The figures now."""
        label = ["worker"]
        ready = GaugeMetricFamily("llamacffi_worker_ready", "1 if it answers.", labels=label)
        open_ = GaugeMetricFamily(
            "llamacffi_worker_requests_open", "Requests that it answers.", labels=label
        )
        pid = GaugeMetricFamily("llamacffi_worker_pid", "Its process.", labels=label)
        ends = CounterMetricFamily(
            "llamacffi_worker_ends", "Processes that ended.", labels=[*label, "reason"]
        )
        for worker in self._supervisor.workers:
            number = (str(worker.number),)
            ready.add_metric(number, worker.phase is Phase.READY)
            if worker.process is not None and worker.phase is not Phase.ENDED:
                open_.add_metric(number, worker.process.open)
                pid.add_metric(number, worker.process.pid)
            for reason, times in worker.ends.items():
                ends.add_metric((*number, reason), times)
        yield from (ready, open_, pid, ends)
