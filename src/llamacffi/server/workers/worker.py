"""A worker: the server of one process, on a Unix-domain socket."""

from __future__ import annotations

import logging
import sys

from llamacffi.lifeline import end_with_parent
from llamacffi.server.models import OneModel
from llamacffi.server.run import Server, serve
from llamacffi.server.workers.lifeline import received

__all__ = ["LOAD_FAILED", "main"]

LOAD_FAILED = 3  # exit status: the model cannot be loaded, and the log says why


def main() -> None:
    """Serve what the supervisor says, until it says stop or is gone."""
    spec = received()
    end_with_parent()
    words = f"worker {spec.number}: %(name)s: %(message)s"
    logging.basicConfig(level=spec.log_level or logging.WARNING, format=words)
    # The supervisor's log has the requests; here they would be beside its looks at /health.
    logging.getLogger("llamacffi.server").setLevel(logging.WARNING)
    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
        failures.append(error)
        server.stop()

    name, *aliases = spec.names
    models = OneModel(spec.loading, name, aliases, failed)
    server = Server(models, spec.settings, uds=spec.socket)
    serve(server)
    sys.exit(LOAD_FAILED if failures else 0)
