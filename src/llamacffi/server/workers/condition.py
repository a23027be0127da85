"""How the workers are, all together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamacffi.server.workers.process import Phase
from llamacffi.server.workers.supervisor import Worker

__all__ = ["condition"]


def condition(
    workers: Sequence[Worker], stopping: bool, failed: bool
) -> tuple[int, dict[str, Any]]:
    """The status of GET /health, and its body.

    "degraded" is a server that answers with fewer workers than it should have, or one of whose
    workers refuses requests, since its queue is full.

    Args:
        workers: The workers.
        stopping: Whether the server stops.
        failed: Whether it has given up.
    """
    if stopping:
        return 503, {"status": "stopping"}
    phases = {
        str(worker.number): "failing" if worker.failing else worker.phase.value
        for worker in workers
    }
    ready = [worker for worker in workers if worker.phase is Phase.READY]
    if not ready:
        failed = failed or any(worker.failing for worker in workers)
        return 503, {"status": "failed" if failed else "loading", "workers": phases}
    full = [worker.number for worker in ready if _says_degraded(worker)]
    status = "degraded" if full or len(ready) < len(workers) else "ok"
    return 200, {"status": status, "workers": phases, **({"queue_full": full} if full else {})}


def _says_degraded(worker: Worker) -> bool:
    return worker.process is not None and worker.process.health.get("status") == "degraded"
