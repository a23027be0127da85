"""Devices of other machines: llama.cpp's RPC, its servers' addresses, connections and processes."""

from llamacffi.rpc.endpoint import Endpoint, parse_endpoints
from llamacffi.rpc.remote import RemoteServers

__all__ = ["Endpoint", "RemoteServers", "parse_endpoints"]
