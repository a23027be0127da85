"""Responses: JSON, and errors."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from llamacffi.server.errors import api_error

__all__ = ["Json", "error_response"]


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Serialise."""
        return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)


def error_response(error: BaseException, request_id: str) -> Response:
    """What a client gets instead of an answer."""
    shown = api_error(error, request_id)
    return Json(shown.body(), shown.status_code, headers=shown.headers)
