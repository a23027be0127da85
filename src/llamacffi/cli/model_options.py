"""Options about the model and its context, by llama.cpp's names, for commands that generate."""

from __future__ import annotations

from collections.abc import Callable

import click

__all__ = ["model_options"]

_OPTIONS = (
    click.option(
        "-c", "--ctx-size", "--n-ctx", "n_ctx", default=4096, show_default=True,
        help="Context length; 0: model's.",
    ),
    click.option(
        "-t", "--threads", "--n-threads", "n_threads", type=int,
        help="Default: one per physical core.",
    ),
    click.option("--backend", default="auto", show_default=True),
    click.option(
        "-ngl", "--gpu-layers", "--n-gpu-layers", "n_gpu_layers", default=-1, show_default=True,
        help="-1 for all that fit.",
    ),
)  # fmt: skip


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command: it gets n_ctx, n_threads, backend and n_gpu_layers."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
