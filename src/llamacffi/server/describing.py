"""The description of the interface, GET /openapi.json: answers, errors, streams, keys."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from llamacffi.server.schemas.answers import ErrorAnswer

__all__ = ["answers", "describe", "errors"]

_STATUSES = {
    400: "The request is wrong.",
    404: "No such model.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    429: "As many requests as there may be are running.",
    500: "A defect of the server.",
    502: "The process that computed the answer ended.",
    503: "Busy, loading or stopping; Retry-After says when to ask again.",
    504: "Not over in time.",
}
_GATE = {401: "No key, or a wrong one.", 403: "Not a host name of this server."}
_EVENTS = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "description": "One event.",
            "properties": {
                "data": {
                    "type": "string",
                    "description": "A chunk of the answer in JSON; [DONE] in the last event, or an "
                    "error if it ends before.",
                    "pattern": r"^(\{.*\}|\[DONE\])$",
                }
            },
            "required": ["data"],
        },
        "example": 'data: {"id": "...", "choices": [...]}\n\ndata: [DONE]\n\n',
    }
}


def answers(model: type[BaseModel], *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that computes something.

    Args:
        model: Its answer.
        streams: Whether it can be asked for server-sent events.
    """
    good: dict[str, Any] = {"model": model, "description": "The answer."}
    if streams:
        good["description"] = 'The answer; with "stream": true, its pieces as events.'
        good["content"] = _EVENTS
    return {200: good, **errors(*_STATUSES)}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of errors."""
    return {status: {"model": ErrorAnswer, "description": _STATUSES[status]} for status in statuses}


def describe(app: FastAPI, has_keys: bool, open_paths: Collection[str]) -> None:
    """Make FastAPI's description true of what is around the routes.

    Args:
        app: The application, with all routes.
        has_keys: Whether it asks for keys.
        open_paths: What needs none.
    """
    make = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(make(), has_keys, open_paths)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # how FastAPI has it changed


def _complete(schema: dict[str, Any], has_keys: bool, open_paths: Collection[str]) -> None:
    components = schema["components"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which nobody gets
        components["schemas"].pop(name, None)
    if has_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}]
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            if path in open_paths:
                operation["security"] = []
            for status, words in _GATE.items():
                if status != 401 or (has_keys and path not in open_paths):
                    operation["responses"][str(status)] = {"description": words, "content": body}
