"""The process that answers one client of an RPC server.

ggml-rpc believes its clients: a tensor that lies about itself ends the process, or worse. So each
client has a process of its own, which holds nothing of others, and ends with the connection.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from llamacffi.backends.devices import device_pointers, devices
from llamacffi.lifeline import end_with_parent
from llamacffi.native.library import open_library

__all__ = ["ServingOptions", "main", "start_serving"]

# Not -m, which would look into the current directory first.
CODE = "import sys; sys.path[:] = sys.argv[3:]; from llamacffi.rpc.serving import main; main()"


@dataclass(frozen=True)
class ServingOptions:
    """What clients are served with.

    Attributes:
        library: The shared library to compute with.
        devices: The names of the devices that clients get.
        n_threads: Threads for a device that is a CPU.
        cache: A folder that large tensors are kept in, or None.
    """

    library: str
    devices: tuple[str, ...]
    n_threads: int
    cache: str | None = None


def start_serving(connection: int, options: ServingOptions) -> subprocess.Popen[bytes]:
    """Start a process that answers the client on a connected socket, and ends with this one."""
    described = json.dumps(asdict(options))
    command = [sys.executable, "-c", CODE, str(connection), described, *sys.path]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        pass_fds=(connection,),
        start_new_session=True,  # Ctrl-C is for the server, which ends its processes
    )


def main() -> None:
    """Answer a client; the process ends with it."""
    import resource

    end_with_parent()
    connection, text = int(sys.argv[1]), sys.argv[2]
    options = ServingOptions(**json.loads(text))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # hostile clients would fill the disk
    library = open_library(Path(options.library))
    ffi, lib, error = library.ffi, library.lib, library.new_error()
    by_name = dict(zip((d.name for d in devices(library)), device_pointers(library), strict=True))
    chosen = ffi.new("ggml_backend_dev_t[]", [by_name[name] for name in options.devices])
    cache = ffi.NULL if options.cache is None else ffi.new("char[]", os.fsencode(options.cache))
    lib.llamacffi_remote_serve(connection, cache, chosen, len(chosen), options.n_threads, error)
    if error.kind:
        sys.stderr.write(f"llamacffi rpc-server: a client was dropped: {library.message(error)}\n")
    sys.stderr.flush()
    os._exit(1 if error.kind else 0)  # nothing of this process is worth tidying up
