"""The command group: subcommands are imported when they are used, and errors become messages."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import click

import llamacffi
from llamacffi.errors import LlamaCffiError

__all__ = ["main"]

COMMANDS = (
    "backends", "chat", "complete", "embed", "inspect", "plugins", "pull", "rpc-server", "serve"
)  # fmt: skip


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f"llamacffi.cli.{name}")
        command = getattr(module, name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LlamaCffiError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(llamacffi.__version__, prog_name="llamacffi")
@click.option("-v", "--verbose", count=True, help="Log more: -v for information, -vv for all.")
def main(verbose: int) -> None:
    """Run GGUF language models with llama.cpp."""
    if verbose:
        level = logging.INFO if verbose == 1 else logging.DEBUG
        logging.basicConfig(level=level, format="%(name)s: %(message)s")
    elif logging.lastResort is not None:
        # Warnings to standard error: of a backend that was installed and is passed over.
        logging.getLogger("llamacffi.backends").addHandler(logging.lastResort)
