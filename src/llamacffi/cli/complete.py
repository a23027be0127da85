"""`llamacffi complete`."""

from __future__ import annotations

import sys
from typing import TextIO

import click

__all__ = ["complete"]


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("-n", "--max-tokens", default=128, show_default=True, help="0 for as many as fit.")
@click.option("--temperature", "--temp", default=0.8, show_default=True)
@click.option("--top-k", default=40, show_default=True)
@click.option("--top-p", default=0.95, show_default=True)
@click.option("--min-p", default=0.05, show_default=True)
@click.option("--repeat-penalty", default=1.0, show_default=True)
@click.option("--seed", type=int, help="For the same text each time.")
@click.option("--stop", multiple=True, help="A string that ends the text; may be repeated.")
@click.option("--grammar", type=click.File(), help="A file with GBNF rules.")
@click.option("--template", help="Treat the prompt as a user's message in this format.")
@click.option("--system", help="A system message; needs --template.")
@click.option("--echo", is_flag=True, help="Print the prompt too.")
@click.option("-c", "--n-ctx", default=4096, show_default=True, help="Context length; 0: model's.")
@click.option("-t", "--n-threads", type=int, help="Default: one per physical core.")
@click.option("--backend", default="auto", show_default=True)
@click.option("-ngl", "--n-gpu-layers", default=-1, show_default=True)
@click.option("--quiet", is_flag=True, help="No progress bar and no statistics.")
def complete(
    model: str,
    prompt: str | None,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repeat_penalty: float,
    seed: int | None,
    stop: tuple[str, ...],
    grammar: TextIO | None,
    template: str | None,
    system: str | None,
    echo: bool,
    n_ctx: int,
    n_threads: int | None,
    backend: str,
    n_gpu_layers: int,
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
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
            stop=stops,
            grammar=grammar.read() if grammar else None,
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
