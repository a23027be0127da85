"""What a sampler is: a name, and a way to make either a native node or a logits processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llamacffi.native.handle import Handle
from llamacffi.native.library import Library
from llamacffi.sampling.trigger import Trigger
from llamacffi.vocab import Vocab

__all__ = ["NativeNode", "Sampler", "accept_text"]


def accept_text(library: Library, grammar: Any, text: bytes) -> bool:
    """Let a grammar's node go on past a text; false, with its state kept, if it refuses it."""
    if not text:
        return True
    error = library.new_error()
    return bool(library.lib.llamacffi_grammar_accept_text(grammar, text, len(text), error))


@dataclass(frozen=True)
class Sampler:
    """A kind of sampler, as plugins register it.

    Attributes:
        name: What users write: `chain.add("top_k", k=40)`. Unique; lower case.
        create: Called as `create(vocab, **parameters)` when the sampler is added to a chain. It
            returns a `NativeNode`, or a logits processor: a callable `(tokens, logits)` that
            gets the sequence so far (int32 array) and the logits (float32 array of shape
            (n_vocab,), a view) and changes them in place, or returns new ones. It may have two
            methods: `begin(prompt)`, called with the prompt's token ids before a text starts; and
            `clone()`, which returns a copy with a state of its own, if it has a state. One that
            only forbids tokens, whatever their logits, may have a third: `allows(tokens, token)`,
            which tells whether a token can come next. It is then asked about the token that the
            others have picked, and called only if it says no, which saves most of its time.
        description: One line for `llamacffi plugins`.
        formats: The kinds of structure that it can hold a text to, each a keyword argument of
            `create`: "json_schema" (a dictionary), "regex", "lark" (text), "grammar" (GBNF text).
    """

    name: str
    create: Callable[..., Any]
    description: str = ""
    formats: tuple[str, ...] = ()


class NativeNode:
    """A `llama_sampler *` that is not in a chain yet; the chain it is added to takes it over.

    Args:
        vocab: The vocabulary it may refer to: it is freed before the model.
        pointer: What a `llama_sampler_init_*` function returned; not NULL.
        n_keep: How many of the best candidates it looks at, where it does not look at all of
            them. Beside a grammar, only as many are then checked. 0 for all.
        trigger: For a grammar that is to wait for it.
        prefix: For a grammar whose rules begin with what the prompt ends with.
    """

    def __init__(
        self,
        vocab: Vocab,
        pointer: Any,
        n_keep: int = 0,
        trigger: Trigger | None = None,
        prefix: bytes = b"",
    ) -> None:
        self._library = library = vocab._library
        self.vocab = vocab
        self.n_keep = n_keep
        self.trigger = trigger
        self.prefix = prefix
        self._handle = Handle(
            "sampler", pointer, library.lib.llama_sampler_free, parent=vocab._handle
        )
        self._handle.keep_alive(self)
        self.name: str = library.ffi.string(library.lib.llama_sampler_name(pointer)).decode()

    def __repr__(self) -> str:
        return f"NativeNode({self.name})"

    def accept_prefix(self) -> bool:
        """Go past the prefix, from the start; false if the grammar does not begin with it."""
        return accept_text(self._library, self._handle.pointer, self.prefix)

    def release(self) -> Any:
        """Hand the pointer over to a new owner."""
        return self._handle.release()
