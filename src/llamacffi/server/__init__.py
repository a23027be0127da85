"""An HTTP server with OpenAI's interface, in front of an `AsyncEngine`.

`llamacffi serve` runs it; `create_app` makes the ASGI application for a server of one's own. It
needs the extra `server`.
"""

from __future__ import annotations

try:
    import fastapi as _fastapi
    import orjson as _orjson
    import prometheus_client as _prometheus_client
    import uvicorn as _uvicorn
except ImportError as error:
    raise ImportError(
        f"The server needs {error.name}, which is not installed: pip install 'llamacffi[server]'."
    ) from error

from llamacffi.server.app import create_app
from llamacffi.server.many_models import ManyModels
from llamacffi.server.model_spec import ModelSpec
from llamacffi.server.models import Models, OneModel, ServedModel
from llamacffi.server.settings import Settings

__all__ = [
    "ManyModels",
    "ModelSpec",
    "Models",
    "OneModel",
    "ServedModel",
    "Settings",
    "create_app",
]

del _fastapi, _orjson, _prometheus_client, _uvicorn
