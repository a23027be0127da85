"""Who may use the server."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from llamacffi.server.answers import error_response
from llamacffi.server.errors import ApiError
from llamacffi.server.scope import passage_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Gate", "Keys", "host_of"]


class Keys:
    """API keys, of which only hashes are kept.

    Args:
        keys: The keys; with none, everybody may pass.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        # Hashes have one length, so that comparing them takes the same time whatever was sent.
        self._hashes = [_hash(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def find(self, key: bytes) -> int | None:
        """The number of the key, None for a wrong one; takes the same time for each."""
        given, found = _hash(key), None
        for number, known in enumerate(self._hashes):
            if hmac.compare_digest(given, known):
                found = number
        return found


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def host_of(header: str) -> str:
    """The name in a Host header, without the port."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


class Gate:
    """ASGI middleware: lets requests pass that have a key, and that mean this server.

    Args:
        app: What is behind it.
        keys: The keys.
        hosts: The names of this server; empty for any.
        open_paths: What needs no key.
    """

    def __init__(
        self, app: ASGIApp, keys: Keys, hosts: Collection[str], open_paths: Collection[str]
    ) -> None:
        self._app = app
        self._keys = keys
        self._hosts = frozenset(map(str.lower, hosts))
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = passage_of(scope)
        try:
            passage.caller = self._checked(scope, dict(scope["headers"]))
        except ApiError as error:
            await error_response(error, passage.request_id)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _checked(self, scope: Scope, headers: Mapping[bytes, bytes]) -> str:
        """Who asks."""
        if self._hosts:
            host = host_of(headers.get(b"host", b"").decode("latin-1"))
            if host not in self._hosts:
                raise ApiError(
                    403,
                    f"This server does not answer to the name {host!r:.100}. If it is right, the "
                    "operator adds --allowed-host.",
                    code="host_not_allowed",
                )
        client = scope.get("client")
        address = client[0] if client else "local"
        if not self._keys:
            return str(address)
        given = headers.get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        number = self._keys.find(key.strip()) if scheme.lower() == b"bearer" else None
        if number is not None:
            return f"key-{number + 1}"
        if scope["path"].removeprefix(scope.get("root_path", "")) in self._open:
            return str(address)
        raise ApiError(
            401,
            "Incorrect API key provided."
            if given
            else "You did not provide an API key. Send the header Authorization: Bearer KEY.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
