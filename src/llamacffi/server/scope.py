"""What a request carries with it from the outermost layer on."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Passage", "passage_of", "route_of"]

KEY = "llamacffi.passage"
_SANE_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")


@dataclass
class Passage:
    """A request's way through the server.

    Attributes:
        request_id: The client's `x-request-id` if it is sane, else a new one.
        began: When its head came, by time.perf_counter().
        caller: Who asks: the number of the key, or an address.
    """

    request_id: str
    began: float = field(default_factory=time.perf_counter)
    caller: str = ""

    @classmethod
    def of_headers(cls, headers: Mapping[bytes, bytes]) -> Passage:
        """A request begins."""
        given = headers.get(b"x-request-id", b"")
        sane = _SANE_ID.fullmatch(given) is not None
        return cls(given.decode() if sane else f"req-{secrets.token_hex(12)}")

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return time.perf_counter() - self.began


def passage_of(scope: Mapping[str, Any]) -> Passage:
    """The passage of an ASGI request."""
    passage = scope[KEY]
    assert isinstance(passage, Passage)
    return passage


def route_of(scope: Mapping[str, Any]) -> str:
    """The path of the route that answers an ASGI request, for the metrics."""
    return str(getattr(scope.get("route"), "path", "other"))
