"""What an operator says of each model that is to be served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llamacffi.backends import AUTO
from llamacffi.errors import ParameterError
from llamacffi.fitting import MARGIN
from llamacffi.model_params import number_or_auto
from llamacffi.rpc import parse_endpoints
from llamacffi.rpc.remote import RPC_TIMEOUT_SECONDS, check_timeout
from llamacffi.server.loading import Loading

__all__ = ["ModelSpec", "name_of"]

# What of it is the model's.
MODEL = ("backend", "n_gpu_layers", "rpc_servers", "rpc_timeout")
# What of it is the engine's.
ENGINE = (
    "n_ctx", "n_parallel", "n_queue_max", "n_batch", "n_ubatch", "n_threads", "n_threads_batch",
    "chat_format", "pooling", "fit_margin", "flash_attention", "type_k", "type_v",
)  # fmt: skip


@dataclass(frozen=True)
class ModelSpec:
    """A model that requests may name, and how it is run.

    Attributes:
        id: Its name in requests and answers.
        model: A file, an alias such as "smollm2", or `hf:owner/repo/file.gguf`.
        aliases: More names.
        preload: Load it when the server starts, not when it is first asked for.
        pinned: Load it when the server starts, and never unload it.
        backend: See `Model`.
        n_gpu_layers: See `Model`.
        rpc_servers: See `Model`.
        rpc_timeout: See `Model`.
        n_ctx: See `Engine`; 0 for what the model was trained for, "auto" for what fits of it.
        fit_margin: MiB that "auto" leaves free on each device.
        n_parallel: See `Engine`.
        n_queue_max: See `Engine`.
        n_batch: See `Engine`.
        n_ubatch: See `Engine`.
        n_threads: See `Engine`.
        n_threads_batch: See `Engine`.
        chat_format: The template for conversations: a registered name, or a file.
        pooling: How a text's embeddings are joined; see `Engine`.
        flash_attention: See `Context`.
        type_k: See `Context`.
        type_v: See `Context`.

    Raises:
        ParameterError: A name is empty, or a number out of its range.
    """

    id: str
    model: str
    aliases: tuple[str, ...] = ()
    preload: bool = False
    pinned: bool = False
    backend: str = "auto"
    n_gpu_layers: int | Literal["auto"] = "auto"
    rpc_servers: tuple[str, ...] = ()
    rpc_timeout: float = RPC_TIMEOUT_SECONDS
    n_ctx: int | Literal["auto"] = 4096
    fit_margin: int = MARGIN
    n_parallel: int = 8
    n_queue_max: int = 1024
    n_batch: int = 2048
    n_ubatch: int = 512
    n_threads: int | None = None
    n_threads_batch: int | None = None
    chat_format: str | None = None
    pooling: str = "unspecified"
    flash_attention: str = "auto"
    type_k: str = "f16"
    type_v: str = "f16"

    def __post_init__(self) -> None:
        if not all(self.names) or not self.model:
            raise ParameterError(f"{self.id or 'A model'}: a name is empty. Give it one.")
        parse_endpoints(self.rpc_servers)
        check_timeout(self.rpc_timeout)
        for name in ("n_ctx", "n_gpu_layers"):
            number_or_auto(f"{self.id}: {name}", getattr(self, name))
        bounds = (
            ("n_ctx", 0),
            ("fit_margin", 0),
            ("n_parallel", 1),
            ("n_queue_max", 1),
            ("n_batch", 1),
        )
        for name, least in bounds:
            if getattr(self, name) != AUTO and getattr(self, name) < least:
                raise ParameterError(
                    f"{self.id}: {name}={getattr(self, name)}: choose {least} or more."
                )

    @property
    def loading(self) -> Loading:
        """Loads it."""
        return Loading(
            self.model,
            {name: getattr(self, name) for name in MODEL},
            {name: getattr(self, name) for name in ENGINE},
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may call it."""
        return (self.id, *self.aliases)


def name_of(model: str) -> str:
    """A model's name where nobody gave one: the alias, or the file's name."""
    name = model.rpartition("/")[2]
    return name.removesuffix(".gguf") or model
