"""A Ray cluster of one machine for tests: few processes, loopback only, nothing left behind."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

SETTINGS = {
    # Ray replaces 127.0.0.1 by an address that others can reach, unless it is told as on these
    # systems that there are no others.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.2",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.2",
}
os.environ.update(SETTINGS)  # before it is imported: it reads some of them then

# It is imported with what its own dependencies will drop one day.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import ray
    import ray.data
    from ray import serve

# Ray's own default is a third of the memory.
OBJECT_STORE_BYTES = 80 * 2**20
# They are reserved by name only. Ray starts as many idle processes.
N_CPUS = 4


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def cluster(port: int) -> Iterator[str]:
    """Ray, and Ray Serve with HTTP at a port, on this machine; gives Ray's address."""
    # Ray's sockets lie here: their paths must be shorter than those of pytest's folders.
    folder = tempfile.mkdtemp(prefix="ray-")
    try:
        ray.init(
            num_cpus=N_CPUS,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield ray.get_runtime_context().gcs_address
        serve.shutdown()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
