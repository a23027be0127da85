"""`llamacffi complete`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from llamacffi.cli.model_options import model_options
from llamacffi.cli.sampling import sampling_options
from llamacffi.sampling.params import SamplingParams

if TYPE_CHECKING:
    from llamacffi.generation import Drafter

__all__ = ["complete"]


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("-n", "--max-tokens", default=128, show_default=True, help="0 for as many as fit.")
@sampling_options
@click.option("--stop", multiple=True, help="A string that ends the text; may be repeated.")
@click.option("--ignore-eos", is_flag=True, help="Do not end before --max-tokens.")
@click.option(
    "-md", "--model-draft", help="A smaller model that proposes tokens, or 'prompt-lookup'."
)
@click.option("--template", help="Treat the prompt as a user's message in this format.")
@click.option("--system", help="A system message; needs --template.")
@click.option("--echo", is_flag=True, help="Print the prompt too.")
@model_options
@click.option("--quiet", is_flag=True, help="No progress bar and no statistics.")
def complete(
    model: str,
    prompt: str | None,
    max_tokens: int,
    sampling: SamplingParams,
    stop: tuple[str, ...],
    ignore_eos: bool,
    model_draft: str | None,
    template: str | None,
    system: str | None,
    echo: bool,
    n_ctx: int | str,
    n_threads: int | None,
    backend: str,
    n_gpu_layers: int | str,
    fit_margin: int,
    rpc_servers: str | None,
    quiet: bool,
) -> None:
    """Complete PROMPT (or standard input) with MODEL, printing the text as it comes.

    MODEL is a file, an alias such as smollm2, or hf:owner/repo/file.gguf.
    """
    import time

    from llamacffi.llama import Llama
    from llamacffi.templates import find_template

    if system and not template:
        raise click.UsageError("--system needs --template.")
    chosen = find_template(template) if template else None
    text = sys.stdin.read() if prompt is None else prompt
    with Llama(
        model,
        backend=backend,
        n_ctx=n_ctx,
        n_threads=n_threads,
        n_gpu_layers=n_gpu_layers,
        fit_margin=fit_margin,
        rpc_servers=rpc_servers,
        draft_model=_drafter(model_draft, backend),
        progress=not quiet and sys.stderr.isatty(),
    ) as llama:
        asked: str | list[int] = text
        stops = list(stop)
        if chosen is not None:
            messages = [{"role": "system", "content": system}] if system else []
            rendered = chosen.render([*messages, {"role": "user", "content": text}])
            asked = rendered.tokens(llama.model.vocab)
            stops += rendered.stops
        start = time.perf_counter()
        first = None
        chunks = llama.create_completion(
            asked,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stops,
            ignore_eos=ignore_eos,
            echo=echo,
            stream=True,
        )
        count = 0
        for chunk in chunks:
            first = first or time.perf_counter()
            count += 1
            click.echo(chunk["choices"][0]["text"], nl=False)
        click.echo()
        if not quiet and first is not None:
            after = time.perf_counter() - first
            rate = f", {count / after:.1f} pieces/s" if after > 0 else ""
            click.echo(f"[first token after {first - start:.2f} s{rate}]", err=True)


def _drafter(named: str | None, backend: str) -> Drafter | None:
    from llamacffi.drafting import DraftModel, PromptLookup
    from llamacffi.model import Model

    if named is None:
        return None
    if named == "prompt-lookup":
        return PromptLookup()
    return DraftModel(Model(named, backend=backend))
