"""`llamacffi inspect`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import click

__all__ = ["inspect"]

MAX_VALUE = 100


@click.command()
@click.argument("model")
@click.option("-c", "--n-ctx", default=0, help="Context length of the estimate; 0: the model's.")
@click.option("--backend", default="auto", show_default=True, help="The library to read with.")
@click.option("--tensors", "list_tensors", is_flag=True, help="List the tensors too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(model: str, n_ctx: int, backend: str, list_tensors: bool, as_json: bool) -> None:
    """Show the metadata of MODEL's file and estimate the memory it needs."""
    from llamacffi import hub
    from llamacffi.backends import choose
    from llamacffi.estimate import estimate_memory
    from llamacffi.gguf import GGUFFile

    path = hub.resolve(model, progress=True)
    with GGUFFile(choose(backend), path) as file:
        metadata, tensors = file.metadata(), file.tensors()
        estimate = estimate_memory(file, n_ctx)
        version = file.version
    types = Counter[str]()
    for tensor in tensors:
        types[tensor.type] += tensor.n_elements
    facts: dict[str, Any] = {
        "file": str(path),
        "file_size": path.stat().st_size,
        "gguf_version": version,
        "n_tensors": len(tensors),
        "n_params": sum(types.values()),
        "types": dict(types.most_common()),
        "memory": {**asdict(estimate), "total": estimate.total},
        "metadata": metadata,
    }
    if list_tensors:
        facts["tensors"] = [asdict(tensor) for tensor in tensors]
    if as_json:
        click.echo(json.dumps(facts, indent=2, default=str))
        return
    _print(facts)


def _print(facts: dict[str, Any]) -> None:
    click.echo(f"{facts['file']}  ({_bytes(facts['file_size'])}, GGUF {facts['gguf_version']})")
    types = ", ".join(f"{kind} {count:,}" for kind, count in facts["types"].items())
    click.echo(f"{facts['n_params']:,} parameters in {facts['n_tensors']} tensors: {types}")
    memory = facts["memory"]
    click.echo(
        f"Memory at n_ctx={memory['n_ctx']}: about {_bytes(memory['total'])} "
        f"(weights {_bytes(memory['weights'])}, cache {_bytes(memory['cache'])}, "
        f"compute {_bytes(memory['compute'])})"
    )
    click.echo()
    for key, value in facts["metadata"].items():
        text = str(value).replace("\n", "\\n")
        shown = (
            text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}... ({len(text)} characters)"
        )
        click.echo(f"{key} = {shown}")
    for tensor in facts.get("tensors", ()):
        click.echo(f"{tensor['name']}  {tensor['type']}  {tensor['n_elements']:,}")


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
