"""Devices that llama.cpp takes for GPUs, where there is none: its own remote ones, on loopback.

A worker process serves the CPU's memory as a device. It is registered in a copy of the library, so
that the models of other tests, which use the library itself, do not see it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ["library_with_devices", "serve"]

START_SECONDS = 60.0


@contextmanager
def library_with_devices(
    library: Path, folder: Path, n_devices: int, room_mib: int = 0
) -> Iterator[Path]:
    """A copy of a library with so many more devices, each of a worker of its own.

    Args:
        library: The library.
        folder: Where the copy goes.
        n_devices: How many.
        room_mib: Memory that each really has, whatever it says; 0 for the machine's.
    """
    copy = folder / library.name
    shutil.copy(library, copy)
    shutil.copy(library.with_suffix(".json"), copy.with_suffix(".json"))
    with ExitStack() as running:
        addresses = [running.enter_context(_worker(library, room_mib)) for _ in range(n_devices)]
        native = _opened(copy)
        native.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
        native.ggml_backend_rpc_add_server.argtypes = [ctypes.c_char_p]
        native.ggml_backend_register.argtypes = [ctypes.c_void_p]
        for address in addresses:
            registry = native.ggml_backend_rpc_add_server(address.encode())
            assert registry, address
            native.ggml_backend_register(registry)
        yield copy


@contextmanager
def _worker(library: Path, room_mib: int) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = subprocess.Popen(
        [sys.executable, __file__, str(library), f"127.0.0.1:{port}", str(room_mib)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, worker)
        yield f"127.0.0.1:{port}"
    finally:
        worker.kill()
        worker.wait()


def _wait_for(port: int, worker: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert worker.poll() is None, "the worker died"
            assert time.monotonic() < deadline, "the worker does not listen"
            time.sleep(0.05)


def _opened(library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(library), mode=os.RTLD_NOW | os.RTLD_LOCAL)


def serve(library: Path, address: str, room_mib: int) -> None:
    """Serve the CPU device until the process is killed."""
    native = _opened(library)
    native.llama_backend_init()
    native.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    device = ctypes.c_void_p(native.ggml_backend_dev_by_type(0))
    if room_mib:
        status = Path("/proc/self/status").read_text().split()
        used = int(status[status.index("VmData:") + 1]) << 10
        limit = used + (room_mib << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    native.ggml_backend_rpc_start_server(
        address.encode(), None, ctypes.c_size_t(1), ctypes.c_size_t(1), ctypes.byref(device)
    )


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
