"""`llamacffi rpc-server`."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llamacffi.rpc.endpoint import DEFAULT_PORT

if TYPE_CHECKING:
    from llamacffi.backends import Device
    from llamacffi.rpc.server import RpcServer

__all__ = ["rpc_server"]

WARNING = """\
Warning: {endpoint} can be reached from other machines.
  The protocol has NO authentication and NO encryption: whoever can connect can use this machine's
  memory and devices, read what passes, and perhaps run programs as this user. Only ever do this in
  a network that is closed to others, behind a firewall, or in a tunnel (SSH, WireGuard)."""


@click.command("rpc-server")
@click.option("-H", "--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("-p", "--port", default=DEFAULT_PORT, show_default=True, help="0 for a free one.")
@click.option(
    "-d", "--device", "named", help="Devices, separated by commas. Default: GPUs, else the CPU."
)
@click.option(
    "-t",
    "--threads",
    "--n-threads",
    "n_threads",
    type=click.IntRange(min=1),
    help="For a CPU as device. Default: one per physical core.",
)
@click.option("-c", "--cache", is_flag=True, help="Keep large tensors in a folder, for next time.")
@click.option("--cache-dir", type=click.Path(file_okay=False, path_type=Path), help="That folder.")
@click.option("--backend", default="auto", show_default=True)
@click.option(
    "--max-clients",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Connections at a time; each model of a client has one.",
)
def rpc_server(
    host: str,
    port: int,
    named: str | None,
    n_threads: int | None,
    cache: bool,
    cache_dir: Path | None,
    backend: str,
    max_clients: int,
) -> None:
    """Lend this machine's devices to models on others, which name it in rpc_servers or --rpc.

    There is no authentication and no encryption: see docs/rpc.md before you change --host.
    """
    from llamacffi.backends import choose
    from llamacffi.backends.devices import devices
    from llamacffi.context_params import default_threads
    from llamacffi.rpc.server import RpcServer, is_loopback
    from llamacffi.rpc.serving import ServingOptions

    if not logging.getLogger().handlers:  # not verbose: clients that come and go are the news here
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("llamacffi.rpc").setLevel(logging.INFO)
    library = choose(backend, (named or "").split(","))
    chosen = _chosen(devices(library), named)
    options = ServingOptions(
        str(library.path),
        tuple(device.name for device in chosen),
        n_threads or default_threads(),
        _folder(cache_dir) if cache or cache_dir else None,
    )
    with RpcServer(host, port, options, max_clients) as server:
        for device in chosen:
            size = f"{device.memory_total / 2**30:.1f} GiB"
            click.echo(f"{device.name}: {device.description}, {size}", err=True)
        if not is_loopback(server.endpoint):
            click.echo(click.style(WARNING.format(endpoint=server.endpoint), "red"), err=True)
        click.echo(f"Listening on {server.endpoint}", err=True)
        _until_told(server)


def _until_told(server: RpcServer) -> None:
    """Serve until SIGINT or SIGTERM; to be asked to stop is no failure."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    server.serve()


def _chosen(there: tuple[Device, ...], named: str | None) -> list[Device]:
    from llamacffi.backends.software import computing

    if named is None:
        return computing(there) or [device for device in there if device.type == "cpu"]
    by_name = {device.name: device for device in there}
    names = [name.strip() for name in named.split(",")]
    unknown = [name for name in names if name not in by_name]
    if unknown or len(set(names)) != len(names):
        raise click.UsageError(
            f"--device {named}: name each of them once. There is {', '.join(by_name)}."
        )
    return [by_name[name] for name in names]


def _folder(given: Path | None) -> str:
    import platformdirs

    folder = given or platformdirs.user_cache_path("llamacffi") / "rpc"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise click.ClickException(f"--cache-dir {folder}: {error.strerror}.") from None
    return str(folder)
