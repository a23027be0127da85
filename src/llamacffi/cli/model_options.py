"""Options about the model and its context, by llama.cpp's names, for commands that generate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["NUMBER_OR_AUTO", "fit_target_option", "layers_option", "model_options"]


class _NumberOrAuto(click.ParamType[int | str]):
    name = "N|auto"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        if value == "auto":
            return "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor auto.", param, ctx)


NUMBER_OR_AUTO = _NumberOrAuto()
layers_option = click.option(
    "-ngl", "--gpu-layers", "--n-gpu-layers", "n_gpu_layers", default="auto",
    type=NUMBER_OR_AUTO, show_default=True,
    help="Layers on the device; auto: as many as fit, -1: all.",
)  # fmt: skip
fit_target_option = click.option(
    "-fitt", "--fit-target", "fit_margin", default=1024, show_default=True,
    type=click.IntRange(min=0), help="MiB that auto leaves free on each device.",
)  # fmt: skip

_OPTIONS = (
    click.option(
        "-c", "--ctx-size", "--n-ctx", "n_ctx", default="4096", type=NUMBER_OR_AUTO,
        show_default=True, help="Context length; 0: model's, auto: what fits of that.",
    ),
    click.option(
        "-t", "--threads", "--n-threads", "n_threads", type=int,
        help="Default: one per physical core.",
    ),
    click.option("--backend", default="auto", show_default=True),
    layers_option,
    fit_target_option,
    click.option(
        "--rpc", "rpc_servers", metavar="HOST:PORT,...",
        help="Machines that run `llamacffi rpc-server`, to hold layers, too.",
    ),
)  # fmt: skip


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options: n_ctx, n_threads, backend, n_gpu_layers, fit_margin and rpc_servers."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
