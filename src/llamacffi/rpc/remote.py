"""The servers of one model, and their devices in llama.cpp."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from llamacffi.backends import Device
from llamacffi.errors import ParameterError, RemoteDeviceError
from llamacffi.native.library import Library
from llamacffi.rpc.connecting import DEVICES_MAX, Greeted, connect, connect_seconds
from llamacffi.rpc.endpoint import Endpoint

__all__ = ["RPC_TIMEOUT_SECONDS", "RemoteServers", "check_timeout"]

log = logging.getLogger(__name__)
RPC_TIMEOUT_SECONDS = 300.0
TIMEOUT_SECONDS_MAX = 1e6


def check_timeout(seconds: float) -> None:
    """Refuse a value of `rpc_timeout` that is no time.

    Raises:
        ParameterError: It is not positive, or longer than a million seconds.
    """
    if not 0 < seconds <= TIMEOUT_SECONDS_MAX:
        raise ParameterError(
            f"rpc_timeout={seconds}: give a number of seconds, more than 0 and at most "
            f"{TIMEOUT_SECONDS_MAX:g}."
        )


class RemoteServers:
    """Connections to servers, for one model alone.

    Args:
        library: What the model is loaded with.
        endpoints: The servers, in the order in which their devices are numbered.
        timeout: Seconds that a server may let a call wait.

    Attributes:
        pointers: The `ggml_backend_dev_t` of each device.
        found: The devices, as they were when the servers were connected.

    Raises:
        RemoteDeviceError: A server could not be reached, or is none. None is connected then.
    """

    def __init__(self, library: Library, endpoints: Sequence[Endpoint], timeout: float) -> None:
        self._library = library
        self._opened: list[Any] = []
        self.pointers: list[Any] = []
        self.found: tuple[Device, ...] = ()
        try:
            for endpoint in endpoints:
                protocol = library.lib.llamacffi_remote_protocol()
                self._open(endpoint, connect(endpoint, protocol, connect_seconds()), timeout)
        except BaseException:
            self.close()
            raise

    def _open(self, endpoint: Endpoint, greeted: Greeted, timeout: float) -> None:
        lib, first, count = self._library.lib, len(self.pointers), len(greeted.memory)
        if first + count > DEVICES_MAX:
            greeted.connection.close()
            raise RemoteDeviceError(
                f"With those of {endpoint} there are {first + count} devices: "
                f"llama.cpp splits a model over {DEVICES_MAX} at most. Use fewer servers."
            )
        error = self._library.new_error()
        opened = lib.llamacffi_remote_open(
            greeted.connection.detach(),
            str(endpoint).encode(),
            count,
            first,
            max(1, int(timeout * 1000)),
            error,
        )
        self._library.check(error, f"Connecting to {endpoint}")
        self._opened.append(opened)
        pointers = [lib.llamacffi_remote_device(opened, index) for index in range(count)]
        self.pointers += pointers
        self.found += tuple(
            self._described(pointer, *memory)
            for pointer, memory in zip(pointers, greeted.memory, strict=True)
        )
        log.info("%s: %d devices", endpoint, count)

    def devices(self) -> tuple[Device, ...]:
        """Describe the devices; asks the servers for their memory.

        Raises:
            RemoteDeviceError: A server does not answer.
        """
        ffi, lib, error = self._library.ffi, self._library.lib, self._library.new_error()
        free, total = ffi.new("size_t *"), ffi.new("size_t *")
        now = []
        for pointer in self.pointers:
            lib.llamacffi_remote_memory(pointer, free, total, error)
            self._library.check(error, "Asking for a device's memory")
            now.append(self._described(pointer, int(free[0]), int(total[0])))
        return tuple(now)

    def _described(self, pointer: Any, free: int, total: int) -> Device:
        ffi, lib = self._library.ffi, self._library.lib
        return Device(
            name=ffi.string(lib.ggml_backend_dev_name(pointer)).decode(),
            description=ffi.string(lib.ggml_backend_dev_description(pointer)).decode(),
            type="gpu",
            memory_free=free,
            memory_total=total,
        )

    def close(self) -> None:
        """Close the connections; the model that used them must have been freed."""
        self.pointers = []
        while self._opened:
            self._library.lib.llamacffi_remote_close(self._opened.pop())
