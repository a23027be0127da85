"""A chain of samplers: logits processors in Python first, then llama.cpp's own nodes in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llamacffi.errors import ParameterError, PluginError
from llamacffi.native.handle import Handle, Owner
from llamacffi.sampling.registry import find_sampler
from llamacffi.sampling.sampler import NativeNode
from llamacffi.vocab import check_tokens

if TYPE_CHECKING:
    from llamacffi.context import Context
    from llamacffi.model import Model

__all__ = ["LogitsProcessor", "SamplerChain"]

LogitsProcessor = Callable[..., Any]

# Nodes that only shape the distribution. A chain must end with one that picks a token.
_SHAPING = frozenset({
    "top-k", "top-p", "min-p", "typical", "temp", "temp-ext", "penalties", "dry", "xtc",
    "top-n-sigma", "logit-bias", "grammar", "infill",
})  # fmt: skip
_REMEMBERING = frozenset({"penalties", "dry"})  # what looks at the prompt too


class SamplerChain(Owner):
    """Samplers in the order in which they were added; the last one picks the token.

    Belongs to a model, whose closing frees it. Not safe for two sequences at once: clone it.

    Args:
        model: The model whose logits it samples from.
        samplers: What to add at once: names, (name, parameters) pairs, or processors.
    """

    def __init__(self, model: Model, samplers: Sequence[Any] = ()) -> None:
        self._model = model
        self._library = library = model.library
        self._lib = library.lib
        self._error = library.new_error()
        with model._handle.lock:
            _ = model._handle.pointer
            pointer = self._lib.llama_sampler_chain_init(
                self._lib.llama_sampler_chain_default_params()
            )
            self._own(pointer)
        self._labels: list[str] = []
        self.processors: list[tuple[str, LogitsProcessor]] = []
        for sampler in samplers:
            if isinstance(sampler, tuple):
                self.add(sampler[0], **sampler[1])
            else:
                self.add(sampler)

    def _own(self, pointer: Any) -> None:
        parent = self._model._handle
        self._handle = Handle("sampler chain", pointer, self._lib.llama_sampler_free, parent)
        self._handle.keep_alive(self)

    def add(self, sampler: str | NativeNode | LogitsProcessor, **parameters: Any) -> SamplerChain:
        """Add a sampler at the end.

        Args:
            sampler: A name (`llamacffi.samplers()` lists them), a native node, or a logits
                processor `(tokens, logits)`. Processors run before all native nodes.
            **parameters: For a sampler given by name.

        Returns:
            The chain, so that calls can be strung together.

        Raises:
            PluginError: No sampler has this name.
            TypeError: The sampler does not take these parameters.
            ParameterError: A parameter out of its range.
        """
        label = sampler if isinstance(sampler, str) else getattr(sampler, "__name__", repr(sampler))
        made = sampler
        if isinstance(sampler, str):
            made = find_sampler(sampler).create(self._model.vocab, **parameters)
        if isinstance(made, NativeNode):
            with self._handle.lock:
                self._lib.llama_sampler_chain_add(self._handle.pointer, made.release())
            settings = ", ".join(f"{key}={value!r}" for key, value in parameters.items())
            self._labels.append(f"{label}({settings})")
        elif callable(made):
            self.processors.append((str(label), made))
        else:
            raise PluginError(
                f"The sampler {label!r} made a {type(made).__name__}, which cannot sample."
            )
        return self

    def __repr__(self) -> str:
        names = [name for name, _ in self.processors] + self._labels
        return f"SamplerChain({' -> '.join(names)})"

    def __len__(self) -> int:
        return len(self.processors) + len(self._labels)

    # -- sampling ---------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse a chain that cannot pick a token.

        Raises:
            ParameterError: It is empty, or ends with a node that only shapes the distribution.
        """
        names = self._native_names()
        if not names or names[-1].lstrip("?") in _SHAPING:  # "?": its parameters switch it off
            raise ParameterError(f"{self} picks no token. Add 'dist' or 'greedy' at its end.")

    def _native_names(self) -> list[str]:
        lib, ffi = self._lib, self._library.ffi
        with self._handle.lock:
            chain = self._handle.pointer
            nodes = [
                lib.llama_sampler_chain_get(chain, index)
                for index in range(lib.llama_sampler_chain_n(chain))
            ]
            return [ffi.string(lib.llama_sampler_name(node)).decode() for node in nodes]

    def sample(self, context: Context, index: int = -1, tokens: Sequence[int] = ()) -> int:
        """Pick a token from an output of the last decode, and accept it (llama_sampler_sample).

        Args:
            context: Where the decode was.
            index: The output's place in the batch; negative from the end.
            tokens: The sequence so far, for logits processors.

        Returns:
            The token id.

        Raises:
            NativeError: llama.cpp could not pick one, e.g. with every logit at -inf.
            Exception: Whatever a logits processor raised, with the processor's name noted.
        """
        if context.model is not self._model:
            raise ParameterError(
                f"{self} belongs to {self._model}, the context to {context.model}."
            )
        if self.processors:
            self._process(context, index, tokens)
        with self._handle.lock, context._handle.lock:
            token = self._lib.llamacffi_sampler_sample(
                self._handle.pointer, context._handle.pointer, index, self._error
            )
        if self._error.kind:
            self._library.fail(self._error, f"Sampling with {self}", self._handle)
        return int(token)

    def _process(self, context: Context, index: int, tokens: Sequence[int]) -> None:
        import numpy as np

        logits = context.logits(index)
        ids = np.array(tokens, dtype=np.intc)
        for name, processor in self.processors:
            try:
                result = processor(ids, logits)
                if result is not None and result is not logits:
                    logits[:] = result
            except Exception as error:
                if hasattr(error, "add_note"):  # Python 3.11
                    error.add_note(f"raised by the logits processor {name!r}")
                raise

    def accept(self, token: int) -> None:
        """Tell every node that a token was chosen elsewhere (llama_sampler_accept)."""
        check_tokens((token,), self._model.vocab.n_tokens)
        with self._handle.lock:
            self._lib.llamacffi_sampler_accept(self._handle.pointer, token, self._error)
            self._library.check(self._error, f"Accepting token {token}", self._handle)

    def accept_prompt(self, tokens: Sequence[int]) -> None:
        """Tell the nodes that penalise repetition what the prompt was; a grammar sees nothing."""
        check_tokens(tokens, self._model.vocab.n_tokens)
        names = self._native_names()
        for index, name in enumerate(names):
            if name.lstrip("?") in _REMEMBERING:
                with self._handle.lock:
                    node = self._lib.llama_sampler_chain_get(self._handle.pointer, index)
                    for token in tokens:
                        self._lib.llama_sampler_accept(node, token)

    def reset(self) -> None:
        """Forget what was accepted (llama_sampler_reset)."""
        with self._handle.lock:
            self._lib.llama_sampler_reset(self._handle.pointer)

    def clone(self) -> SamplerChain:
        """A copy with the same state, which goes its own way from here (llama_sampler_clone)."""
        copy = SamplerChain.__new__(SamplerChain)
        copy._model, copy._library, copy._lib = self._model, self._library, self._lib
        copy._error = self._library.new_error()
        with self._handle.lock:
            pointer = self._lib.llamacffi_sampler_clone(self._handle.pointer, copy._error)
            self._library.check(copy._error, f"Cloning {self}")
            copy._own(pointer)
        copy._labels = list(self._labels)
        copy.processors = list(self.processors)
        return copy

    @property
    def seed(self) -> int:
        """The seed in use, also where it was drawn at random (llama_sampler_get_seed)."""
        with self._handle.lock:
            return int(self._lib.llama_sampler_get_seed(self._handle.pointer))
