"""`llamacffi inspect`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llamacffi.cli.model_options import NUMBER_OR_AUTO, fit_target_option, layers_option
from llamacffi.errors import LlamaCffiError, ParameterError

if TYPE_CHECKING:
    from llamacffi.fitting import Fit
    from llamacffi.memory_plan import MemoryPlan
    from llamacffi.model_params import ModelParams
    from llamacffi.native.library import Library

__all__ = ["inspect"]

MAX_VALUE = 100


@click.command()
@click.argument("model")
@click.option(
    "-c", "--ctx-size", "--n-ctx", "n_ctx", default="0", type=NUMBER_OR_AUTO,
    help="Context length of the plan; 0: the model's, auto: what fits of that.",
)  # fmt: skip
@click.option("--backend", default="auto", show_default=True, help="The library to read with.")
@click.option("--device", "devices", multiple=True, help="Use this device only; may be repeated.")
@layers_option
@fit_target_option
@click.option("--tensors", "list_tensors", is_flag=True, help="List the tensors too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(
    model: str,
    n_ctx: int | str,
    backend: str,
    devices: tuple[str, ...],
    n_gpu_layers: int | str,
    fit_margin: int,
    list_tensors: bool,
    as_json: bool,
) -> None:
    """Show the metadata of MODEL's file, and what it would take of each device's memory."""
    from llamacffi import hub
    from llamacffi.backends import choose
    from llamacffi.context_params import ContextParams
    from llamacffi.fitting import Fit
    from llamacffi.gguf import GGUFFile
    from llamacffi.memory_plan import in_units
    from llamacffi.model_params import ModelParams

    library = choose(backend, devices)
    path = hub.resolve(model, progress=True)
    with GGUFFile(library, path) as file:
        metadata, tensors = file.metadata(), file.tensors()
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
        "metadata": metadata,
    }
    shown = f"{path}  ({in_units(facts['file_size'])}, GGUF {version})\n"
    counts = ", ".join(f"{kind} {count:,}" for kind, count in types.most_common())
    shown += f"{facts['n_params']:,} parameters in {len(tensors)} tensors: {counts}\n\n"
    try:
        params = ModelParams(n_gpu_layers, devices=devices or None)
        plan = _plan(library, path, params, Fit(ContextParams(n_ctx=n_ctx), fit_margin))
    except ParameterError:
        raise
    except LlamaCffiError as error:  # a vocabulary, or what this llama.cpp does not know
        facts["memory"] = {"error": str(error)}
        shown += f"No plan of the memory: {error}"
    else:
        facts["memory"] = plan.as_dict()
        shown += str(plan)
    if list_tensors:
        facts["tensors"] = [asdict(tensor) for tensor in tensors]
    if as_json:
        click.echo(json.dumps(facts, indent=2, default=str))
        return
    click.echo(f"{shown}\n")
    for key, value in metadata.items():
        text = str(value).replace("\n", "\\n")
        cut = text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}... ({len(text)} characters)"
        click.echo(f"{key} = {cut}")
    if list_tensors:
        for tensor in tensors:
            click.echo(f"{tensor.name}  {tensor.type}  {tensor.n_elements:,}")


def _plan(library: Library, path: Path, params: ModelParams, fit: Fit) -> MemoryPlan:
    from llamacffi.fitting import plan_memory
    from llamacffi.gguf_check import check_model_file
    from llamacffi.measuring import ModelSource

    check_model_file(path)
    return plan_memory(ModelSource(library, [path]), params, fit)
