"""A chain of samplers: logits processors in Python first, then llama.cpp's own nodes in order."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamacffi import plugins
from llamacffi.errors import ParameterError, PluginError, SamplingError
from llamacffi.native.handle import Handle, Owner
from llamacffi.sampling.history import TokenHistory
from llamacffi.sampling.registry import find_sampler
from llamacffi.sampling.sampler import NativeNode, Sampler, accept_text
from llamacffi.sampling.seeds import native_seed, random_seed
from llamacffi.sampling.trigger import Trigger
from llamacffi.vocab import check_tokens

if TYPE_CHECKING:
    from llamacffi.context import Context
    from llamacffi.model import Model

__all__ = ["LogitsProcessor", "SamplerChain"]

LogitsProcessor = Callable[..., Any]

# Nodes that only shape the distribution. A chain must end with one that picks a token.
_SHAPING = frozenset({
    "top-k", "top-p", "min-p", "typical", "temp", "temp-ext", "penalties", "dry", "xtc",
    "top-n-sigma", "logit-bias", "infill",
})  # fmt: skip
_REMEMBERING = frozenset({"penalties", "dry"})  # what looks at the prompt too
GRAMMAR, INFILL = "grammar", "infill"  # what llama.cpp calls such nodes
MAX_INFILL = 1000
# Nodes that change the logits of single tokens, whichever others there are: they must see all.
_WIDE = frozenset({"penalties", "?penalties", "dry", "?dry", "logit-bias", "?logit-bias"})


@dataclass(frozen=True)
class _Part:
    """Something that was added to a chain.

    Attributes:
        label: What it is called.
        parameters: What it was made with, if it was given by name.
        sampler: Which one that name meant.
        processor: The logits processor; None for a native node.
        pointer: The native node; None for a logits processor.
        n_keep: See `NativeNode`.
        native_name: What llama.cpp calls the node.
        trigger: What a lazy grammar waits for.
        prefix: What a grammar goes past before the first token.
    """

    label: str
    parameters: dict[str, Any]
    sampler: Sampler | None = None
    processor: LogitsProcessor | None = None
    pointer: Any = None
    n_keep: int = 0
    native_name: str = ""
    trigger: Trigger | None = None
    prefix: bytes = b""

    def __str__(self) -> str:
        if self.sampler is None:
            return self.label
        settings = ", ".join(f"{key}={value!r}" for key, value in self.parameters.items())
        return f"{self.label}({settings})"


class SamplerChain(Owner):
    """Samplers in the order in which they were added; the last one picks the token.

    Two kinds stand beside that order, wherever they were added: logits processors run first, on
    the raw logits; and grammars are asked about the token that the rest has picked. Only if they
    refuse it, the rest picks again among the tokens that they allow (as llama.cpp's own tools do).

    Belongs to a model, whose closing frees it. Not safe for two sequences at once: clone it.

    Args:
        model: The model whose logits it samples from.
        samplers: What to add at once: names, (name, parameters) pairs, or processors.
    """

    def __init__(self, model: Model, samplers: Sequence[Any] = ()) -> None:
        self._model = model
        self._library = library = model.library
        self._lib = lib = library.lib
        self._error = library.new_error()
        self._parts: list[_Part] = []
        self._seed = random_seed()
        with model._handle.lock:
            _ = model._handle.pointer
            pointer = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
            self._grammars: list[Any] = []
            self._handle = Handle(
                "sampler chain", pointer, _destroyer(lib, self._grammars), model._handle
            )
            self._handle.keep_alive(self)
        self._selection = library.ffi.new("struct llamacffi_selection *")
        self._describe()
        for sampler in samplers:
            if isinstance(sampler, tuple):
                self.add(sampler[0], **sampler[1])
            else:
                self.add(sampler)

    @property
    def processors(self) -> list[tuple[str, LogitsProcessor]]:
        """The logits processors, with what they are called."""
        return self._processors

    def _describe(self) -> None:
        """Tell the library how tokens are picked; after each change."""
        self._processors = [
            (_origin(part.label, part.sampler), part.processor)
            for part in self._parts
            if part.processor is not None
        ]
        self._shaping = [named for named in self._processors if not hasattr(named[1], "allows")]
        self._forbidding = [named for named in self._processors if hasattr(named[1], "allows")]
        nodes = [part for part in self._parts if part.pointer and part.native_name != GRAMMAR]
        self._waiting = [part for part in self._parts if part.trigger and part.trigger.waiting]
        self._active = [
            part.pointer
            for part in self._parts
            if part.native_name == GRAMMAR and not (part.trigger and part.trigger.waiting)
        ]
        self._grammar_array = self._library.ffi.new("struct llama_sampler *[]", self._active)
        selection = self._selection
        selection.chain = self._handle.pointer
        selection.grammars, selection.n_grammars = self._grammar_array, len(self._active)
        # Where the first node that chooses looks at no more than the best few candidates, a
        # grammar need not be asked about the others.
        selection.n_wide = next(
            (index for index, node in enumerate(nodes) if node.native_name not in _WIDE), len(nodes)
        )
        selection.n_keep = nodes[selection.n_wide].n_keep if selection.n_wide < len(nodes) else 0

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
            GrammarError: A grammar or schema that cannot be used.
        """
        if isinstance(sampler, str):
            found = find_sampler(sampler)
            given = parameters
            if _takes_seed(found.create):
                # One number for all of them, drawn here: not every node can tell the one it drew.
                if parameters.get("seed") is not None:
                    self._seed = native_seed(parameters["seed"])
                given = {**parameters, "seed": self._seed}
            with _named(_origin(sampler, found)):
                made = found.create(self._model.vocab, **given)
            self._take(sampler, parameters, made, found)
            return self
        label = str(getattr(sampler, "__name__", "") or getattr(sampler, "name", sampler))
        if parameters:
            raise TypeError(f"{label} is not given by name, so it takes no parameters here.")
        self._take(label, {}, sampler)
        return self

    def _take(
        self, label: str, parameters: dict[str, Any], made: Any, sampler: Sampler | None = None
    ) -> None:
        if isinstance(made, NativeNode):
            if made.vocab is not self._model.vocab:
                raise ParameterError(f"The sampler {label!r} belongs to another model.")
            if made.name == INFILL and not any(0 < p.n_keep <= MAX_INFILL for p in self._parts):
                raise ParameterError(
                    "The infill sampler compares every two candidates. Add top_k with at most "
                    f"{MAX_INFILL} before it."
                )
            with self._handle.lock:
                chain, pointer = self._handle.pointer, made.release()
                if made.name == GRAMMAR:
                    self._grammars.append(pointer)
                else:
                    self._lib.llama_sampler_chain_add(chain, pointer)
            part = _Part(
                label, parameters, sampler, None, pointer, made.n_keep, made.name, made.trigger,
                made.prefix,
            )  # fmt: skip
        elif callable(made):
            part = _Part(label, parameters, sampler, made)
        else:
            raise PluginError(
                f"The sampler {label!r} made a {type(made).__name__}, which cannot sample."
            )
        self._parts.append(part)
        self._describe()

    def __repr__(self) -> str:
        ordered = sorted(self._parts, key=lambda part: part.processor is None)
        return f"SamplerChain({' -> '.join(map(str, ordered))})"

    def __len__(self) -> int:
        return len(self._parts)

    # -- sampling ---------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse a chain that cannot pick a token.

        Raises:
            ParameterError: It is empty, or ends with a node that only shapes the distribution.
        """
        _ = self._handle.pointer  # refuses a closed chain
        names = [part.native_name for part in self._parts if part.pointer]
        last = next((name for name in reversed(names) if name != GRAMMAR), "")
        if not last or last.lstrip("?") in _SHAPING:  # "?": its parameters switch it off
            raise ParameterError(f"{self} picks no token. Add 'dist' or 'greedy' at its end.")

    def sample(
        self,
        context: Context,
        index: int = -1,
        tokens: Sequence[int] | TokenHistory = (),
        avoid: Sequence[int] = (),
    ) -> int:
        """Pick a token from an output of the last decode, and accept it (llama_sampler_sample).

        Args:
            context: Where the decode was.
            index: The output's place in the batch; negative from the end.
            tokens: The sequence so far, for logits processors.
            avoid: Token ids to be picked only if no other can be.

        Returns:
            The token id.

        Raises:
            SamplingError: Every token is at -inf, or refused by a grammar.
            NativeError: llama.cpp could not pick one.
            Exception: Whatever a logits processor raised, with the processor's name noted.
        """
        if context.model is not self._model:
            raise ParameterError(
                f"{self} belongs to {self._model}, the context to {context.model}."
            )
        history = tokens if isinstance(tokens, TokenHistory) else TokenHistory(tokens)
        self._process(self._shaping, context, index, history)
        self._selection.accept = not self._forbidding
        token = self._pick(context, index, avoid)
        if self._forbidding:
            if token < 0 or not self._allowed(token, history):
                self._process(self._forbidding, context, index, history)
                token = self._pick(context, index, avoid)
            if token >= 0:
                self._accept(token)
        if token < 0:
            raise SamplingError(
                f"{self} leaves no token to pick: all are at -inf, or refused by a grammar. Loosen "
                "the grammar, the bans or the logits processors."
            )
        if self._waiting:
            self._watch(token)
        return token

    def _pick(self, context: Context, index: int, avoid: Sequence[int]) -> int:
        """A token; one to avoid only if there is no other; negative if there is none at all."""
        if not avoid:
            return self._pick_any(context, index)
        logits = context.logits(index)
        before = logits[avoid]
        logits[avoid] = -math.inf
        token = self._pick_any(context, index)
        if token < 0:
            logits[avoid] = before
            token = self._pick_any(context, index)
        return token

    def _pick_any(self, context: Context, index: int) -> int:
        with self._handle.lock, context._handle.lock:
            _ = self._handle.pointer  # refuses a closed chain
            token = self._lib.llamacffi_sample(
                self._selection, context._handle.pointer, index, self._error
            )
        if self._error.kind:
            self._library.fail(self._error, f"Sampling with {self}", self._handle)
        return int(token)

    def _allowed(self, token: int, history: TokenHistory) -> bool:
        ids = history.array()
        for origin, processor in self._forbidding:
            with _named(origin):
                if not processor.allows(ids, token):  # type: ignore[attr-defined]  # it has
                    return False
        return True

    def _process(
        self,
        processors: list[tuple[str, LogitsProcessor]],
        context: Context,
        index: int,
        history: TokenHistory,
    ) -> None:
        if not processors:
            return
        import numpy as np

        ids, logits = history.array(), context.logits(index)
        for origin, processor in processors:
            with _named(origin):
                result = processor(ids, logits)
                if result is not None and result is not logits:
                    result = np.asarray(result)
                    if result.shape != logits.shape or result.dtype.kind not in "fiu":
                        raise ParameterError(
                            f"A logits processor returned {result!r:.80}: return an array of shape "
                            f"{logits.shape}, or nothing."
                        )
                    logits[:] = result

    def _watch(self, token: int) -> None:
        """See whether a grammar that waits for a trigger begins with this token."""
        for part in self._waiting:
            assert part.trigger is not None
            came = part.trigger.push(token)
            if came is None:
                continue
            with self._handle.lock:
                if isinstance(came, int):
                    self._lib.llamacffi_sampler_accept(part.pointer, came, self._error)
                else:
                    self._lib.llamacffi_grammar_accept_text(
                        part.pointer, came, len(came), self._error
                    )
            if self._error.kind:
                part.trigger.waiting = True
                raise SamplingError(
                    f"The text went on past the trigger of {part} in a way that the grammar does "
                    f"not allow: {self._library.message(self._error)}. Let the grammar begin with "
                    "what can follow there."
                )
            self._describe()

    def accept(self, token: int) -> None:
        """Tell every node that a token was chosen elsewhere (llama_sampler_accept).

        Raises:
            NativeError: A grammar does not allow it here.
        """
        check_tokens((token,), self._model.vocab.n_tokens)
        self._accept(token)
        if self._waiting:
            self._watch(token)

    def _accept(self, token: int) -> None:
        with self._handle.lock:
            for node in (*self._active, self._handle.pointer):
                self._lib.llamacffi_sampler_accept(node, token, self._error)
                self._library.check(self._error, f"Accepting token {token}", self._handle)

    def accept_prompt(self, tokens: Sequence[int]) -> None:
        """Tell what a text begins with to the nodes that penalise repetition, and to processors
        that ask for it; a grammar sees nothing of it.
        """
        tokens = check_tokens(tokens, self._model.vocab.n_tokens)
        with self._handle.lock:
            _ = self._handle.pointer
            for part in self._parts:
                if part.native_name in _REMEMBERING:
                    for token in tokens:
                        self._lib.llama_sampler_accept(part.pointer, token)
        for label, processor in self._processors:
            begin = getattr(processor, "begin", None)
            if begin is not None:
                with _named(label):
                    begin(tokens)

    def reset(self) -> None:
        """Forget what was accepted (llama_sampler_reset)."""
        with self._handle.lock:
            for node in (*self._grammars, self._handle.pointer):
                self._lib.llama_sampler_reset(node)
            for part in self._parts:
                if part.trigger is not None:
                    part.trigger.reset()
                accept_text(self._library, part.pointer, part.prefix)
            self._describe()

    # -- copies -------------------------------------------------------------------------------

    def clone(self) -> SamplerChain:
        """A copy with the same state, which goes its own way from here (llama_sampler_clone)."""
        copy = SamplerChain(self._model)
        copy._seed = self._seed
        for part in self._parts:
            copy._take(part.label, part.parameters, self._cloned(part), part.sampler)
        return copy

    def with_seed(self, seed: int | None) -> SamplerChain:
        """A copy whose samplers draw from a new seed; None for a random one.

        Samplers that were given by name and take a `seed` are made anew; the others are cloned.
        """
        copy = SamplerChain(self._model)
        if seed is None:
            seed = copy._seed
        for part in self._parts:
            if part.sampler is not None and _takes_seed(part.sampler.create):
                copy.add(part.label, **{**part.parameters, "seed": seed})
            else:
                copy._take(part.label, part.parameters, self._cloned(part), part.sampler)
        return copy

    def _cloned(self, part: _Part) -> NativeNode | LogitsProcessor:
        if part.processor is not None:
            clone = getattr(part.processor, "clone", None)
            return part.processor if clone is None else clone()
        with self._handle.lock:
            _ = self._handle.pointer
            pointer = self._lib.llamacffi_sampler_clone(part.pointer, self._error)
            self._library.check(self._error, f"Cloning {part}")
            trigger = None if part.trigger is None else part.trigger.clone()
            return NativeNode(self._model.vocab, pointer, part.n_keep, trigger, part.prefix)

    @property
    def seed(self) -> int:
        """The seed that its samplers were given last, or the random one that they share."""
        _ = self._handle.pointer  # refuses a closed chain
        return self._seed


def _destroyer(lib: Any, grammars: list[Any]) -> Callable[[Any], None]:
    """Not a method: the handle must not keep the chain alive."""

    def destroy(pointer: Any) -> None:
        for sampler in (pointer, *grammars):
            lib.llama_sampler_free(sampler)

    return destroy


@contextlib.contextmanager
def _named(origin: str) -> Iterator[None]:
    """Note on an exception which sampler raised it."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"raised by {origin}")
        raise


def _origin(label: str, sampler: Sampler | None) -> str:
    plugin = None if sampler is None else plugins.owner_of(sampler)
    aside = "" if plugin is None else f" of the plugin {plugin!r}"
    return f"the {'logits processor' if sampler is None else 'sampler'} {label!r}{aside}"


@functools.cache
def _takes_seed(create: Callable[..., Any]) -> bool:
    return "seed" in inspect.signature(create).parameters
