"""`llamacffi serve`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llamacffi.cli.model_options import model_options
from llamacffi.cli.sampling import sampling_options
from llamacffi.sampling.params import SamplingParams

if TYPE_CHECKING:
    from llamacffi.server import ModelSpec, Settings
    from llamacffi.server.model_config import ModelConfig

__all__ = ["serve"]

KEYS_VARIABLE = "LLAMACFFI_API_KEYS"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--config", type=_FILE, help="A TOML file of models, in place of MODEL.")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 for all addresses.")
@click.option("--port", default=8080, show_default=True, help="0 for a free one.")
@click.option("-a", "--alias", multiple=True, help="A name for the model, or NAME=MODEL.")
@click.option("--models-max", type=int, help="Most models that are loaded at a time.")
@click.option("--idle-timeout", type=float, help="Seconds until an unused model is unloaded.")
@click.option("--load-timeout", type=float, help="Seconds that a request waits for a model.")
@click.option(
    "-np",
    "--parallel",
    "--n-parallel",
    "n_parallel",
    default=8,
    show_default=True,
    help="Requests that are computed at a time.",
)
@click.option(
    "--workers",
    "n_workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes, each with --parallel requests and --n-ctx tokens of its own.",
)
@click.option(
    "--worker-timeout", type=float, help="Seconds without a sign of life to replace a worker after."
)
@click.option("--queue-max", "--n-queue-max", "n_queue_max", type=int, help="That may wait.")
@click.option("--chat-template", "--chat-format", "chat_format", help="A name, or a .jinja file.")
@click.option(
    "--api-key", multiple=True, help=f"May be repeated; also {KEYS_VARIABLE}, separated by commas."
)
@click.option("--api-key-file", type=_FILE, help="A file with a key in each line.")
@click.option("--cors-origin", multiple=True, help="May be repeated; * for all.")
@click.option(
    "--allowed-host",
    multiple=True,
    help="A name it answers to; * for any. Default: its own on a loopback address, else any.",
)
@click.option("--max-tokens", type=int, help="Most tokens that a request may ask for.")
@click.option("--max-prompt", type=int, help="Most tokens of a prompt.")
@click.option("--max-body", type=int, help="Largest body in bytes.")
@click.option("--max-choices", type=int, help="Most answers in one request.")
@click.option("--per-key", type=int, help="Requests at a time with one key.")
@click.option("--timeout", type=float, help="Seconds that a request may take.")
@click.option("--stall-timeout", type=float, help="Seconds that a stream may be left unread.")
@click.option("--shutdown-timeout", type=float, help="Seconds to finish in when it is stopped.")
@sampling_options
@model_options
def serve(
    models: tuple[str, ...],
    config: Path | None,
    host: str,
    port: int,
    alias: tuple[str, ...],
    models_max: int | None,
    idle_timeout: float | None,
    load_timeout: float | None,
    n_parallel: int,
    n_workers: int,
    worker_timeout: float | None,
    n_queue_max: int | None,
    chat_format: str | None,
    api_key: tuple[str, ...],
    api_key_file: Path | None,
    cors_origin: tuple[str, ...],
    allowed_host: tuple[str, ...],
    max_tokens: int | None,
    max_prompt: int | None,
    max_body: int | None,
    max_choices: int | None,
    per_key: int | None,
    timeout: float | None,
    stall_timeout: float | None,
    shutdown_timeout: float | None,
    sampling: SamplingParams,
    n_ctx: int | str,
    n_threads: int | None,
    backend: str,
    n_gpu_layers: int | str,
    fit_margin: int,
    rpc_servers: str | None,
) -> None:
    """Serve MODEL over HTTP with OpenAI's interface.

    MODEL is a file, an alias such as smollm2, or hf:owner/repo/file.gguf. Several are loaded when
    they are asked for. The sampling options are for requests that do not say otherwise.
    """
    try:
        from llamacffi.cli.serve_models import config_of
        from llamacffi.server import Settings
    except ImportError as error:
        raise click.ClickException(str(error)) from None

    limits: dict[str, Any] = {
        "tokens_max": max_tokens,
        "prompt_tokens_max": max_prompt,
        "body_bytes_max": max_body,
        "choices_max": max_choices,
        "per_key_max": per_key,
        "timeout": timeout,
        "stall_timeout": stall_timeout,
        "shutdown_timeout": shutdown_timeout,
    }
    settings = Settings(
        api_keys=_keys(api_key, api_key_file),
        cors_origins=cors_origin,
        allowed_hosts=_hosts(host, allowed_host),
        sampling=sampling,
        **_given(limits),
    )
    if not settings.api_keys and host not in LOOPBACK:
        click.echo(f"Warning: {host} can be reached by others, and there is no API key.", err=True)
    if not logging.getLogger().handlers:  # not verbose: what goes wrong is not to go unseen
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("llamacffi.native").setLevel(logging.ERROR)
    options = {
        "backend": backend,
        "n_gpu_layers": n_gpu_layers,
        "fit_margin": fit_margin,
        "rpc_servers": None if rpc_servers is None else tuple(rpc_servers.split(",")),
        "n_parallel": n_parallel,
        "n_ctx": n_ctx,
        "n_threads": n_threads or _share_of_threads(n_workers),
        "chat_format": chat_format,
        "n_queue_max": n_queue_max,
    }
    bounds = {
        "models_max": models_max,
        "idle_timeout": idle_timeout,
        "load_timeout": load_timeout,
    }
    chosen = config_of(models, alias, config, _given(options), _given(bounds))
    if n_workers == 1:
        if worker_timeout is not None:
            raise click.UsageError("--worker-timeout needs --workers 2 or more.")
        failure = _run_one(chosen, settings, host, port)
    else:
        if len(chosen.specs) > 1 or chosen.limits:
            raise click.UsageError("--workers is for one model, which is loaded all the time.")
        silent_max = {} if worker_timeout is None else {"silent_max": worker_timeout}
        failure = _run_several(chosen.specs[0], settings, host, port, n_workers, **silent_max)
    if failure is not None:
        raise click.ClickException(failure)


def _run_one(chosen: ModelConfig, settings: Settings, host: str, port: int) -> str | None:
    """Answer requests in this process; returns why it gave up."""
    from llamacffi.server import ManyModels, Models, OneModel
    from llamacffi.server.run import Server
    from llamacffi.server.run import serve as run

    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
        failures.append(error)
        server.stop()

    models: Models
    if len(chosen.specs) > 1 or chosen.limits:
        models = ManyModels(chosen.specs, **chosen.limits)
    else:
        (only,) = chosen.specs
        models = OneModel(only.loading, only.id, only.aliases, failed)
    server = Server(models, settings, host, port, _listening)
    run(server)
    return str(failures[0]) if failures else None


def _run_several(
    model: ModelSpec,
    settings: Settings,
    host: str,
    port: int,
    n_workers: int,
    **kept: float,
) -> str | None:
    """Answer requests in processes of their own; returns why they gave up."""
    from llamacffi.server.run import serve as run
    from llamacffi.server.workers.front import FrontServer
    from llamacffi.server.workers.spec import WorkerSpec, WorkersPolicy

    spec = WorkerSpec(model.loading, model.names, settings, logging.getLogger().getEffectiveLevel())
    server = FrontServer(spec, WorkersPolicy(n_workers, **kept), host, port, _listening)
    run(server)
    return server.failure


def _listening(address: str) -> None:
    click.echo(f"Listening on {address}", err=True)


def _share_of_threads(n_workers: int) -> int | None:
    """The threads of one of several workers, all of which compute at a time."""
    if n_workers == 1:
        return None
    from llamacffi.context_params import default_threads

    return max(1, default_threads() // n_workers)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _keys(given: Sequence[str], file: Path | None) -> tuple[str, ...]:
    keys = [*given]
    if file is not None:
        keys += (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    keys += (key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(","))
    return tuple(dict.fromkeys(key for key in keys if key and not key.startswith("#")))


def _hosts(host: str, given: Sequence[str]) -> tuple[str, ...]:
    if "*" in given:
        return ()
    if host in LOOPBACK:
        return (*LOOPBACK, *given)
    return tuple(given)
