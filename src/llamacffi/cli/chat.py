"""`llamacffi chat`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from llamacffi.cli.model_options import model_options
from llamacffi.cli.sampling import is_given, sampling_given, sampling_options
from llamacffi.sampling.params import SamplingParams

__all__ = ["chat"]

DEFAULT_MODEL = "smollm2"
INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended


@click.command()
@click.argument("model", default=DEFAULT_MODEL)
@click.option("-p", "--prompt", help="Ask this, print the answer, and end.")
@click.option("-st", "--single-turn", is_flag=True, help="All of standard input is one question.")
@click.option("-sys", "--system", "--system-prompt", help="The system message.")
@click.option("--template", help="A registered name, Jinja text or a file; default: the model's.")
@click.option("-n", "--max-tokens", type=click.IntRange(min=0), default=0, show_default=True,
              help="Most tokens of an answer; 0 for as many as fit.")  # fmt: skip
@click.option("--overflow", type=click.Choice(["drop", "shift", "raise"]), default="drop",
              show_default=True, help="What to do when it is full.")  # fmt: skip
@click.option("--no-thinking", is_flag=True, help="Do not let the model think first.")
@click.option("--reasoning-budget", type=click.IntRange(min=-1), default=-1, show_default=True,
              help="Most tokens to think; -1 for any number.")  # fmt: skip
@click.option("--load", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Go on with a chat that /save wrote.")  # fmt: skip
@sampling_options
@model_options
@click.pass_context
def chat(context: click.Context, /, **options: Any) -> None:
    """Talk with MODEL: on a terminal, or in a pipe, where each line is a question.

    MODEL is a file, an alias such as smollm2, or hf:owner/repo/file.gguf. On a terminal, /help
    lists what else can be said there.
    """
    try:
        failed = _talk(context, **options)
    except KeyboardInterrupt:
        context.exit(INTERRUPTED)
    context.exit(1 if failed else 0)


def _talk(
    context: click.Context,
    /,
    model: str,
    prompt: str | None,
    single_turn: bool,
    sampling: SamplingParams,
    load: Path | None,
    n_ctx: int | str,
    n_threads: int | None,
    backend: str,
    n_gpu_layers: int | str,
    fit_margin: int,
    rpc_servers: str | None,
    **settings: Any,
) -> bool:
    """Whether anything went wrong."""
    from llamacffi.cli.chat_front import choose_front
    from llamacffi.cli.chat_loop import Chat
    from llamacffi.context import Context
    from llamacffi.context_params import ContextParams
    from llamacffi.fitting import Fit
    from llamacffi.model import Model
    from llamacffi.opening import open_fitted

    given = _session_settings(context, load is not None, sampling, **settings)
    shown = sys.stderr.isatty()
    loaded, memory = open_fitted(
        lambda fit: Model(
            model,
            backend=backend,
            n_gpu_layers=n_gpu_layers,
            rpc_servers=rpc_servers,
            fit=fit,
            progress=shown,
        ),
        lambda model: Context(model, n_ctx=n_ctx, n_threads=n_threads, fit_margin=fit_margin),
        Fit(ContextParams(n_ctx=n_ctx), fit_margin),
    )
    with (
        loaded,
        memory,
        Chat(memory, choose_front(prompt, single_turn), given, load) as talk,
    ):
        return talk.run()


def _session_settings(
    context: click.Context,
    loading: bool,
    sampling: SamplingParams,
    *,
    system: str | None,
    template: str | None,
    max_tokens: int,
    overflow: str,
    no_thinking: bool,
    reasoning_budget: int,
) -> dict[str, Any]:
    """Arguments of `ChatSession`. Of a saved chat, only what is on the command line is replaced."""
    every = {
        "system": system,
        "sampling": sampling,
        "template": _template(template),
        "max_tokens": max_tokens or None,
        "overflow": overflow,
        "enable_thinking": not no_thinking,
        "reasoning_budget": None if reasoning_budget < 0 else reasoning_budget,
    }
    if not loading:
        return every
    options = {"enable_thinking": "no_thinking"}
    kept = {name for name in every if is_given(context, options.get(name, name))}
    if sampling_given(context):
        kept.add("sampling")
    return {name: value for name, value in every.items() if name in kept}


def _template(given: str | None) -> str | Path | None:
    """What `ChatSession` takes; it would not look for a file without the suffix .jinja."""
    from llamacffi.templates import templates

    if given is None or given in templates() or "{" in given or not Path(given).is_file():
        return given
    return Path(given)
