"""Where an RPC server listens: "host:port"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llamacffi.errors import ParameterError

__all__ = ["DEFAULT_PORT", "Endpoint", "parse_endpoints"]

DEFAULT_PORT = 50052
_HOST_CHARS = 253  # of a DNS name


@dataclass(frozen=True)
class Endpoint:
    """One server's address.

    Attributes:
        host: A name or an address, IPv6 without brackets.
        port: 1 to 65535.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read "host:port" or "[IPv6 address]:port".

        Raises:
            ParameterError: It is none.
        """
        host, colon, port = text.strip().rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not colon or not host or any(char.isspace() or char in '/@#?[]\0"' for char in host):
            raise _malformed(text)
        if (":" in host) != bracketed or len(host) > _HOST_CHARS:
            raise _malformed(text)
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise _malformed(text)
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoints(given: str | Sequence[str] | None) -> tuple[Endpoint, ...]:
    """Read the argument `rpc_servers`: a list, or one text with commas, as llama.cpp's --rpc.

    Raises:
        ParameterError: One is malformed, or named twice.
    """
    if given is None:
        return ()
    texts = given.split(",") if isinstance(given, str) else list(given)
    for text in texts:
        if not isinstance(text, str):
            raise ParameterError(
                f"rpc_servers: {text!r} is no text. Give addresses such as '10.0.0.2:50052'."
            )
    endpoints = tuple(Endpoint.parse(text) for text in texts)
    for index, endpoint in enumerate(endpoints):
        if endpoint in endpoints[:index]:
            raise ParameterError(
                f"rpc_servers: {endpoint} is named twice. Name each server once; it brings all of "
                "its devices."
            )
    return endpoints


def _malformed(text: str) -> ParameterError:
    return ParameterError(
        f"rpc_servers: {text!r} is no address of a server. Write 'host:port', or '[address]:port' "
        f"for IPv6; llamacffi rpc-server listens on port {DEFAULT_PORT}."
    )
