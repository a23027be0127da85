"""Fitting: how many layers, and how long a context, the free memory has room for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llamacffi.backends import AUTO
from llamacffi.backends.software import computing
from llamacffi.context_params import ContextParams
from llamacffi.errors import NativeError, ParameterError
from llamacffi.measuring import SMALLEST, ModelSource, measure, run_fit
from llamacffi.memory_plan import DeviceMemory, MemoryPlan
from llamacffi.model_params import ModelParams

__all__ = ["ATTEMPTS", "MARGIN", "N_CTX_MIN", "Fit", "fit_context", "fit_layers", "plan_memory"]

logger = logging.getLogger("llamacffi.fitting")

ALL = -1
MIB = 2**20
MARGIN = 1024  # MiB, as llama.cpp's --fit-target
N_CTX_MIN = 4096  # as llama.cpp's --fit-ctx
# No context is made longer than this unless a number asks for it: a file can say any trained
# length, and llama.cpp keeps a table of cells for it.
N_CTX_MOST = 2**20
ATTEMPTS = 4  # loads with less on the devices, after the first one failed
N_CTX_STEP = 256  # llama.cpp rounds a context up to it


@dataclass(frozen=True)
class Fit:
    """What `Model(n_gpu_layers="auto")` leaves room for.

    Attributes:
        context: The context that will be made; with n_ctx "auto", it is shortened before layers
            are left out.
        margin: MiB that stay free on each device; or a number for each, in llama.cpp's order.
        n_ctx_min: The shortest context that n_ctx="auto" may come to, in tokens; where the model
            was trained for less, that.
        attempt: How often the memory did not suffice although it seemed to: each time the devices
            get a quarter less of the model, and the last time no layer.

    Raises:
        ParameterError: A number out of its range.
    """

    context: ContextParams = field(default_factory=lambda: ContextParams(n_ctx=AUTO))
    margin: int | Sequence[int] = MARGIN
    n_ctx_min: int = N_CTX_MIN
    attempt: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.margin, str) or not isinstance(self.margin, int | Sequence):
            raise ParameterError(f"margin={self.margin!r}: give MiB, or a list of them.")
        for margin in self._margins or (None,):
            _check_number("The margin (in MiB)", margin, 0)
        _check_number("n_ctx_min", self.n_ctx_min, 1)

    @property
    def _margins(self) -> Sequence[int]:
        return (self.margin,) if isinstance(self.margin, int) else self.margin

    @property
    def next(self) -> Fit | None:
        """With less on the devices; None if nothing is left to try."""
        return replace(self, attempt=self.attempt + 1) if self.attempt < ATTEMPTS else None

    def bytes_kept(self, places: Sequence[DeviceMemory]) -> list[int]:
        """What is to stay free on each device, given what all of the model would take there."""
        given = list(self._margins)
        margins = (given + [given[-1]] * len(places))[: len(places)]
        kept = []
        for margin, place in zip(margins, places, strict=True):
            room = max(0, place.free - margin * MIB)
            used = min(room, place.needed) * (ATTEMPTS - self.attempt) // ATTEMPTS
            kept.append(place.free - used if self.attempt else margin * MIB)
        return kept


def _check_number(what: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ParameterError(f"{what} is {value!r}: give a whole number, {least} or more.")


# -- layers ---------------------------------------------------------------------------------------


def fit_layers(
    source: ModelSource, params: ModelParams, fit: Fit
) -> tuple[ModelParams, MemoryPlan | None]:
    """Put as many layers on the devices as fit (common_fit_params of llama.cpp's common/fit.h).

    Args:
        source: The model.
        params: How it is to be loaded; what is not about layers stays.
        fit: What to leave room for.

    Returns:
        How to load it, and what goes where; no plan where there is nothing to fit: without a GPU,
        or where the model cannot be loaded, which a load says better.
    """
    whole = replace(params, n_gpu_layers=ALL)
    if params.vocab_only or not _has_gpu(source, params):
        return whole, None
    try:
        return _fit_layers(source, whole, fit)
    except NativeError as error:
        logger.info("%s", error)
        return whole, None


def _has_gpu(source: ModelSource, params: ModelParams) -> bool:
    return bool(computing(source.devices(), params.devices, params.split_mode))


def _fit_layers(
    source: ModelSource, whole: ModelParams, fit: Fit
) -> tuple[ModelParams, MemoryPlan]:
    context, shorten = fit.context, fit.context.n_ctx == AUTO
    if shorten:
        trained = measure(source, whole, _sized(context, N_CTX_STEP)).n_ctx_train
        context = _sized(context, _longest(trained, context))
    plan = measure(source, whole, context)
    kept = fit.bytes_kept(plan.devices)
    if _within(plan, kept):
        return whole, plan
    params, n_ctx = _fit_smaller(source, whole, fit, context, kept)
    layers: Sequence[int] = ()
    if params is None or fit.attempt == ATTEMPTS:
        shortest = min(fit.n_ctx_min * context.n_streams, int(context.n_ctx))
        n_ctx = shortest if shorten else int(context.n_ctx)
        params = _fewer(source, whole, fit, _sized(context, n_ctx), kept)
    elif params.tensor_split is not None:
        layers = [int(count) for count in params.tensor_split[: len(plan.devices)]]
    found = measure(source, params, _sized(context, n_ctx))
    if params.n_gpu_layers == 0 and not _within(found, kept):
        # Without a layer, too, a device would be lent large operations, and need memory for them.
        params = replace(params, devices=())
        found = measure(source, params, _sized(context, n_ctx))
    logger.info("Less goes to the devices, to leave %s MiB free:\n%s", fit.margin, found)
    return params, replace(found, layers=layers)


def _fit_smaller(
    source: ModelSource,
    whole: ModelParams,
    fit: Fit,
    context: ContextParams,
    kept: Sequence[int],
) -> tuple[ModelParams | None, int]:
    """Upstream's way: a shorter context, fewer layers, experts in the host's memory.

    Returns:
        How to load the model, None if upstream finds no way; and the length of the context.
    """
    library, ffi, lib = source.library, source.library.ffi, source.library.lib
    n_devices = lib.llama_max_devices()
    model_params, keep = source.native(whole)
    context_params = context.to_native(source.library, False)
    n_ctx_min = fit.n_ctx_min
    if fit.context.n_ctx == AUTO and context.n_ctx != N_CTX_MOST:
        context_params.n_ctx = 0
    split = ffi.new("float[]", n_devices)
    overrides = ffi.new(
        "struct llama_model_tensor_buft_override[]", lib.llama_max_tensor_buft_overrides()
    )
    margins = ffi.new("size_t[]", [*kept, *[0] * (n_devices - len(kept))])
    status, error = run_fit(
        source,
        lambda names, state, error: lib.llamacffi_fit(
            names, len(source.paths), model_params, context_params, split, overrides, margins,
            n_ctx_min, state, error,
        ),
    )  # fmt: skip
    del keep
    n_ctx = int(context_params.n_ctx)
    if status != lib.LLAMACFFI_FIT_SUCCESS:
        logger.info("llama.cpp's fit found no way: %s", library.message(error))
        return None, n_ctx
    patterns = {}
    for override in overrides:
        if not override.pattern:
            break
        buffer_type = lib.ggml_backend_buft_name(override.buft)
        patterns[ffi.string(override.pattern).decode()] = ffi.string(buffer_type).decode()
    found = replace(whole, n_gpu_layers=int(model_params.n_gpu_layers))
    if patterns:
        found = replace(found, buffer_overrides=patterns)
    if any(split):
        found = replace(found, tensor_split=tuple(split))
    return found, n_ctx


def _fewer(
    source: ModelSource,
    whole: ModelParams,
    fit: Fit,
    context: ContextParams,
    kept: Sequence[int],
) -> ModelParams:
    """Fewer layers where upstream's fit has no answer: the tensors are divided as the user said."""
    low, high = 0, measure(source, whole, SMALLEST).n_layers
    while high - low > 1 and fit.attempt < ATTEMPTS:
        middle = (low + high) // 2
        tried = replace(whole, n_gpu_layers=middle)
        if _within(measure(source, tried, context), kept):
            low = middle
        else:
            high = middle
    return replace(whole, n_gpu_layers=low)


def _within(plan: MemoryPlan, kept: Sequence[int]) -> bool:
    return all(
        place.needed + margin <= place.free
        for place, margin in zip(plan.devices, kept, strict=True)
    )


# -- context --------------------------------------------------------------------------------------


def fit_context(
    source: ModelSource,
    params: ModelParams,
    context: ContextParams,
    fit: Fit,
    encodes: bool,
    n_ctx_train: int | None = None,
) -> int:
    """The longest context that the memory beside a model has room for.

    Args:
        source: The model.
        params: How it was loaded.
        context: How the context will be made, whatever its n_ctx.
        fit: How much is to stay free, and the shortest that may come out.
        encodes: See `ContextParams.to_native`.
        n_ctx_train: What it was trained for, where it is loaded; None where it has no memory yet.

    Returns:
        n_ctx, at most what the model was trained for, for each sequence that has a buffer of its
        own; at least `fit.n_ctx_min` where the model was trained for as much.

    Raises:
        NativeError: The file cannot be loaded any more.
    """

    def plan(n_ctx: int) -> MemoryPlan:
        return measure(source, params, _sized(context, n_ctx), encodes)

    streams = context.n_streams
    loaded = n_ctx_train is not None
    if n_ctx_train is None:
        n_ctx_train = plan(N_CTX_STEP * streams).n_ctx_train
    longest = _longest(n_ctx_train, context)
    shortest = min(longest, fit.n_ctx_min * streams)
    high = plan(longest)
    rooms = _rooms(high, params, fit, loaded)
    if all(place.cache + place.compute <= room for place, room in rooms) or longest == shortest:
        return longest
    low = plan(shortest)
    # What a context takes grows in a straight line with its length.
    lengths = [
        shortest
        if _of_context(small) >= room
        else shortest
        + (longest - shortest)
        * (room - _of_context(small))
        // max(_of_context(big) - _of_context(small), 1)
        for (big, room), small in zip(rooms, low.places, strict=True)
    ]
    found = min(*lengths, longest)
    return max(shortest, found - found % (N_CTX_STEP * streams))


def _rooms(
    plan: MemoryPlan, params: ModelParams, fit: Fit, loaded: bool
) -> list[tuple[DeviceMemory, int]]:
    """What each place has left for a context."""
    # Mapped weights count as free memory, but have to be there while they are in use.
    mapped = params.load_mode not in ("none", "direct-io")
    rooms = []
    for place, kept in zip(plan.places, fit.bytes_kept(plan.places), strict=True):
        to_come = place.weights if not loaded or (place is plan.host and mapped) else 0
        room = place.free - kept - to_come
        rooms.append((place, room if place.total else _of_context(place)))
    return rooms


def _of_context(place: DeviceMemory) -> int:
    return place.cache + place.compute


def _sized(context: ContextParams, n_ctx: int) -> ContextParams:
    return replace(context, n_ctx=n_ctx)


def _longest(n_ctx_train: int, context: ContextParams) -> int:
    return max(1, min(n_ctx_train * context.n_streams, N_CTX_MOST))


def plan_memory(source: ModelSource, params: ModelParams, fit: Fit) -> MemoryPlan:
    """What `Model` and `Context` would do with these parameters, "auto" or numbers.

    Raises:
        NativeError: The file cannot be loaded.
    """
    context = fit.context
    if params.n_gpu_layers == AUTO:
        params, plan = fit_layers(source, params, fit)
        if plan is not None:
            return plan
    if context.n_ctx == AUTO:
        context = _sized(context, fit_context(source, params, context, fit, encodes=False))
    return measure(source, params, context)
