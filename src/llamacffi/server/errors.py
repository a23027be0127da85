"""Errors in OpenAI's shape: which status, type and code each exception stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from llamacffi.errors import (
    BusyError,
    CancelledError,
    ClosedError,
    ContextFullError,
    DeadlineError,
    EmptyInputError,
    GrammarError,
    InvalidTokenError,
    LlamaCffiError,
    ParameterError,
    PluginError,
    RemoteDeviceError,
    SchemaError,
    TemplateError,
    UnsupportedError,
)
from llamacffi.server.schemas.sampling import FIELDS

__all__ = ["ApiError", "ClientGoneError", "StoppingError", "api_error"]

INVALID = "invalid_request_error"
SERVER = "server_error"
RETRY_SECONDS = 1
_OURS_TO_THEIRS = {ours: theirs for theirs, ours in FIELDS.items()}


class ApiError(HTTPException):
    """An answer that is an error.

    Args:
        status: The HTTP status.
        message: What was asked, what was found, what to do.
        kind: OpenAI's `type`.
        param: The field of the request that is to blame.
        code: A word for programs.
        headers: More headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers) if headers else None)
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """OpenAI's shape."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


class ClientGoneError(Exception):
    """The client has closed the connection, or does not read: nobody waits for an answer."""


class StoppingError(ApiError):
    """The server stops, and the time that running requests had is over."""

    def __init__(self) -> None:
        super().__init__(
            503,
            "The server is stopping. Try again, it may be back soon.",
            kind=SERVER,
            code="server_stopping",
            headers=_retry(),
        )


def api_error(error: BaseException, request_id: str = "") -> ApiError:
    """What an exception looks like to a client; of a defect of ours, it sees only the request's id.

    Args:
        error: What was raised.
        request_id: The request's.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return _validation_error(error.errors())
    if isinstance(error, StarletteHTTPException):
        return _http_error(error)
    if isinstance(error, LlamaCffiError):
        found = _library_error(error)
        if found is not None:
            return found
    return ApiError(
        500,
        "The server failed to answer this request. Its log says why, under the request id "
        f"{request_id}.",
        kind=SERVER,
        code="internal_error",
    )


def _library_error(error: LlamaCffiError) -> ApiError | None:
    message = str(error)
    if isinstance(error, BusyError):
        return ApiError(503, message, kind=SERVER, code="overloaded", headers=_retry())
    if isinstance(error, DeadlineError):
        return ApiError(504, message, kind=SERVER, code="timeout")
    if isinstance(error, ClosedError | CancelledError):
        return ApiError(503, message, kind=SERVER, code="unavailable", headers=_retry())
    if isinstance(error, RemoteDeviceError):  # its words name machines
        text = "A machine that computes for this model is lost. The model has to be loaded again."
        return ApiError(503, text, kind=SERVER, code="worker_lost", headers=_retry())
    if isinstance(error, ContextFullError):
        return ApiError(400, message, code="context_length_exceeded")
    if isinstance(error, SchemaError):
        return ApiError(400, message, param="response_format", code="invalid_schema")
    if isinstance(error, GrammarError):
        return ApiError(400, message, param="grammar", code="invalid_grammar")
    if isinstance(error, TemplateError):
        field = "tools" if message.startswith(("tools", "The tool", "Two tools")) else "messages"
        return ApiError(400, message, param=field)
    if isinstance(error, UnsupportedError):
        return ApiError(400, message, code="unsupported")
    if isinstance(error, ParameterError | InvalidTokenError | EmptyInputError | PluginError):
        named = re.match(r"\w+(?=[=:])|response_format", message)
        if named is None:
            return ApiError(400, message)
        param = _OURS_TO_THEIRS.get(named[0], named[0])
        return ApiError(400, f"{param}{message.removeprefix(named[0])}", param=param)
    return None


def _validation_error(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """Pydantic's first complaint in words."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    kind = first["type"]
    if kind == "json_invalid":
        return ApiError(400, f"The body is no JSON: {first.get('ctx', {}).get('error')}.")
    if kind == "extra_forbidden":
        name = ".".join(place)
        return ApiError(
            400,
            f"Unrecognized request argument supplied: {name}",
            param=name,
            code="unknown_parameter",
        )
    if not place:
        return ApiError(400, "Send a JSON object, with the header Content-Type: application/json.")
    # Of a union, pydantic names each member that did not fit: the path up to the first is enough.
    name = place[0] if len(errors) > 1 else ".".join(place)
    if kind == "missing":
        return ApiError(400, f"Missing required parameter: {name}.", param=name)
    reasons = sorted(
        {str(error["msg"]) for error in errors if error["loc"][:2] == first["loc"][:2]}
    )
    return ApiError(400, f"{name}: {'; or: '.join(reasons)}.", param=name)


def _http_error(error: StarletteHTTPException) -> ApiError:
    words = {
        404: ("There is nothing at this address. GET /docs lists what there is.", "not_found"),
        405: ("This address does not take this method: see GET /docs.", "method_not_allowed"),
    }
    message, code = words.get(error.status_code, (str(error.detail), None))
    return ApiError(error.status_code, message, code=code, headers=error.headers)


def _retry() -> dict[str, str]:
    return {"Retry-After": str(RETRY_SECONDS)}
