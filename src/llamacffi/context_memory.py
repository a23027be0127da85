"""Whether there is memory for a context: before it is made, and after that failed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from llamacffi.context_params import ContextParams
from llamacffi.errors import ContextInitError, DeviceMemoryError, NativeError
from llamacffi.fitting import Fit, fit_context
from llamacffi.measuring import is_about_memory, measure, out_of_memory
from llamacffi.memory_plan import in_units

if TYPE_CHECKING:
    from llamacffi.model import Model

__all__ = ["check_size", "create_fitted", "init_error"]

Created = TypeVar("Created")
logger = logging.getLogger("llamacffi.fitting")


def create_fitted(
    model: Model, fit: Fit, encodes: bool, create: Callable[[int], Created]
) -> Created:
    """Make a context as long as the free memory has room for; shorter where it had not.

    Args:
        model: The loaded model.
        fit: The context's parameters, and what is to stay free.
        encodes: See `ContextParams.to_native`.
        create: Makes a context of so many tokens.

    Raises:
        DeviceMemoryError: Not even the shortest could be made.
    """
    shortest = min(fit.n_ctx_min, model.n_ctx_train) * fit.context.n_streams
    try:
        n_ctx = fit_context(
            model.source, model.params, fit.context, fit, encodes, model.n_ctx_train
        )
    except NativeError as error:
        logger.warning("n_ctx=%s, the shortest, since nothing can be measured: %s", shortest, error)
        n_ctx = shortest
    while True:
        try:
            return create(n_ctx)
        except DeviceMemoryError as error:
            if n_ctx <= shortest:
                raise
            n_ctx = max(shortest, n_ctx // 2)
            logger.warning("%s It is tried again with n_ctx=%s.", error, n_ctx)


def init_error(model: Model, params: ContextParams, encodes: bool, message: str) -> Exception:
    """Why no context could be made, from llama.cpp's words."""
    if not is_about_memory(message):
        return ContextInitError(
            f"No context could be made of {model} with {params}: {message or 'no reason given'}. "
            "Correct the parameters."
        )
    return out_of_memory(
        f"No context of {params.n_ctx or model.n_ctx_train} tokens could be made of {model}",
        message,
        'Lower n_ctx (n_ctx="auto" finds out what fits), n_batch or n_seq_max, or use a smaller '
        "type_k and type_v.",
        lambda: [
            replace(place, weights=0)  # they have their memory
            for place in measure(model.source, model.params, params, encodes).places
        ],
    )


def check_size(model: Model, params: Any) -> None:
    """Refuse a cache larger than the memory: Linux would grant it, and then kill us.

    Args:
        model: The loaded model.
        params: A `struct llama_context_params *`.

    Raises:
        DeviceMemoryError: It is larger.
    """
    if model.is_remote:
        return  # other machines have the most of it, and refuse what is too much themselves
    n_ctx = params.n_ctx or model.n_ctx_train
    if not (model.n_head and model.n_layer and model.n_ctx_train) or model.is_recurrent:
        return
    row = model.n_embd // model.n_head * model.n_head_kv
    row_size = model.library.lib.ggml_row_size
    per_token = model.n_layer * sum(
        row_size(kind, 256) * row // 256 for kind in (params.type_k, params.type_v)
    )
    needed = n_ctx * per_token
    largest = max(model.available_devices, key=lambda device: device.memory_total)
    if model.n_swa == 0 and needed > largest.memory_total:
        raise DeviceMemoryError(
            f"n_ctx={n_ctx} needs about {in_units(needed)} for the cache; the largest memory here "
            f'has {in_units(largest.memory_total)}. Lower n_ctx (n_ctx="auto" finds out what '
            "fits), or use a smaller type_k and type_v.",
            {largest.name: needed},
            {largest.name: largest.memory_free},
        )
