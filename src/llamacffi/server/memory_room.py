"""How much memory a model will take, and how much there is where it goes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamacffi.backends import AUTO, choose
from llamacffi.backends.devices import devices
from llamacffi.backends.software import computing
from llamacffi.errors import ModelFormatError, NativeError
from llamacffi.gguf_check import check_model_file
from llamacffi.host_memory import host_memory
from llamacffi.hub import resolve
from llamacffi.measuring import ModelSource, measure
from llamacffi.model_params import ModelParams
from llamacffi.native.library import Library
from llamacffi.server.model_spec import ModelSpec

__all__ = ["MemoryRoom", "Need"]


@dataclass(frozen=True)
class Need:
    """Memory that a model takes.

    Attributes:
        library: Computes it; its devices have the memory.
        on_device: Whether it goes to a GPU, else to the host.
        weights: Bytes of the weights, which on the host are mapped: they count as available there
            while they are in use.
        other: Bytes of the cache and of working space.
    """

    library: Library
    on_device: bool
    weights: int
    other: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.other


class MemoryRoom:
    """Measures memory, without loading weights."""

    def needed(self, spec: ModelSpec) -> Need:
        """What a model will take; fetches its file if it has to be fetched.

        With "auto", what it would take if there were room for all.

        Raises: As `Model`, for a file that cannot be had or read.
        """
        library = choose(spec.backend)
        if spec.rpc_servers and spec.n_gpu_layers != 0:
            return Need(
                library, False, 0, 0
            )  # it is the workers' memory, and they tell at the load
        path = resolve(spec.model)
        check_model_file(path)
        context = spec.loading.fit.context
        if context.n_ctx == AUTO:  # it will take what is there
            context = replace(context, n_ctx=spec.loading.fit.n_ctx_min)
        try:
            plan = measure(ModelSource(library, [path]), ModelParams(spec.n_gpu_layers), context)
        except NativeError as error:
            raise ModelFormatError(f"{error} Fetch the file again.") from None
        places = plan.devices if plan.n_gpu_layers else (plan.host,)
        return Need(
            library,
            bool(plan.n_gpu_layers),
            sum(place.weights for place in places),
            sum(place.cache + place.compute for place in places),
        )

    def available(self, need: Need) -> int:
        """Bytes that are free where a model would go."""
        if need.on_device:
            return sum(_gpus(need.library))
        return host_memory().free


def _gpus(library: Library) -> list[int]:
    return [device.memory_free for device in computing(devices(library))]
