"""`llamacffi embed`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llamacffi.cli.model_options import model_options
from llamacffi.context_params import POOLING
from llamacffi.normalization import NORMALIZATIONS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["embed"]

FORMATS = ("lines", "openai", "npy")


@click.command()
@click.argument("model")
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option(
    "--pooling", type=click.Choice([*POOLING][1:]), help="Default: as the model was trained."
)
@click.option(
    "--normalize",
    "--embd-normalize",
    "normalize",
    default="euclidean",
    show_default=True,
    type=click.Choice([*NORMALIZATIONS]),
    help="What to make 1 of a vector.",
)
@click.option("--dimensions", type=click.IntRange(1), help="Keep so many numbers of a vector.")
@click.option(
    "--truncate",
    type=click.Choice(["end", "start", "no"]),
    default="no",
    show_default=True,
    help="Where to cut a text that is too long.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="lines",
    show_default=True,
    help="A JSON list per text, OpenAI's JSON, or a numpy file.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file, not to standard output.",
)
@model_options
def embed(
    model: str,
    texts: tuple[str, ...],
    pooling: str | None,
    normalize: str,
    dimensions: int | None,
    truncate: str,
    form: str,
    output: Path | None,
    n_ctx: int | str,
    n_threads: int | None,
    backend: str,
    n_gpu_layers: int | str,
    fit_margin: int,
    rpc_servers: str | None,
) -> None:
    """Turn each TEXT (or each line of standard input) into a vector with MODEL.

    MODEL is a file, an alias such as smollm2, or hf:owner/repo/file.gguf.
    """
    from llamacffi.llama import Llama

    given = list(texts) or [line for line in sys.stdin.read().splitlines() if line.strip()]
    with Llama(
        model,
        backend=backend,
        embedding=True,
        n_ctx=n_ctx,
        n_threads=n_threads,
        n_gpu_layers=n_gpu_layers,
        fit_margin=fit_margin,
        rpc_servers=rpc_servers,
        pooling_type=pooling,
        progress=sys.stderr.isatty(),
    ) as llama:
        settings: dict[str, Any] = {
            "normalize": normalize,
            "truncate": False if truncate == "no" else truncate,
            "dimensions": dimensions,
        }
        if form == "openai":
            answer = llama.create_embedding(given, **settings)
            content = (json.dumps(answer) + "\n").encode()
        else:
            vectors = llama.embed(given, **settings)
            content = _npy(vectors) if form == "npy" else _lines(vectors)
    if output is None:
        sys.stdout.buffer.write(content)
    else:
        output.write_bytes(content)


def _lines(vectors: list[NDArray[np.float32]]) -> bytes:
    return "".join(json.dumps(vector.tolist()) + "\n" for vector in vectors).encode()


def _npy(vectors: list[NDArray[np.float32]]) -> bytes:
    """One matrix; the rows of all tokens below each other, where there is one for each."""
    import io

    import numpy as np

    file = io.BytesIO()
    np.save(file, np.vstack(vectors))
    return file.getvalue()
