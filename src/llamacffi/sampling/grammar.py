"""Grammars: GBNF text, from a string, a file or a JSON schema, and the sampler nodes they make."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamacffi.backends import AUTO, choose
from llamacffi.errors import GrammarError, SchemaError
from llamacffi.native.library import Library
from llamacffi.sampling.grammar_check import MAX_BYTES, check_grammar
from llamacffi.sampling.sampler import NativeNode
from llamacffi.sampling.schema_source import schema_of
from llamacffi.sampling.thinking import Thinking
from llamacffi.sampling.trigger import Trigger
from llamacffi.vocab import Vocab

__all__ = ["Grammar", "grammar", "json_schema", "without_surrogates"]

# Upstream's strings allow a lone "\\ud83d", which is no character. Real ones come unescaped anyway.
_ANY_ESCAPE = '"u" [0-9a-fA-F]{4}'
_NO_SURROGATE = '"u" ([0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2})'


@dataclass(frozen=True)
class Grammar:
    """Rules in llama.cpp's GBNF that a text must follow.

    Attributes:
        text: The rules.
        root: The rule to start from.
        trigger_patterns: Regular expressions. With a trigger the grammar is lazy: the
            text is free until one of the triggers comes, and is held to the grammar from there on
            (from the pattern's first group, if it has one).
        trigger_words: The same, as plain text.
        trigger_tokens: The same, as token ids.
        thinking: How thoughts are marked, in which nothing triggers.
        prefix: What the rules begin with, but the prompt ends with already.
    """

    text: str
    root: str = "root"
    trigger_patterns: tuple[str, ...] = ()
    trigger_words: tuple[str, ...] = ()
    trigger_tokens: tuple[int, ...] = ()
    thinking: Thinking | None = None
    prefix: str = ""

    @classmethod
    def from_string(cls, grammar: str, root: str = "root") -> Grammar:
        """A grammar from its text; llama-cpp-python's name for it."""
        return cls(grammar, root)

    @classmethod
    def from_file(cls, file: str | os.PathLike[str], root: str = "root") -> Grammar:
        """Read a grammar from a UTF-8 file.

        Raises:
            OSError: The file cannot be read.
            GrammarError: It is too large, or no UTF-8.
        """
        path = Path(file)
        with path.open("rb") as opened:
            text = opened.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise GrammarError(f"{path} has more than {MAX_BYTES} bytes: is it a grammar?")
        try:
            return cls(text.decode("utf-8-sig"), root)
        except UnicodeDecodeError as error:
            raise GrammarError(f"{path} is no UTF-8 text: {error}.") from None

    @classmethod
    def from_json_schema(cls, schema: Any, backend: str = AUTO) -> Grammar:
        """The grammar of all JSON texts that a schema allows, some unusual ones excepted.

        Args:
            schema: A JSON schema: a dictionary, JSON text, a pydantic model or a Python type.
            backend: Whose library converts it; they all give the same.

        Raises:
            SchemaError: The schema is malformed, or has keywords that cannot be enforced.
        """
        return cls(_converted(choose(backend), schema))


def grammar(
    vocab: Vocab,
    grammar: str | os.PathLike[str] | Grammar,
    root: str = "root",
    trigger_patterns: Sequence[str] = (),
    trigger_words: Sequence[str] = (),
    trigger_tokens: Sequence[int] = (),
) -> NativeNode:
    """Allow only what a GBNF grammar allows (llama_sampler_init_grammar)."""
    if isinstance(grammar, os.PathLike):
        grammar = Grammar.from_file(grammar, root)
    if not isinstance(grammar, Grammar):
        grammar = Grammar(grammar, root)
    patterns, words = trigger_patterns, trigger_words
    if not isinstance(patterns, str) and not isinstance(words, str):  # else Trigger refuses them
        patterns = [*grammar.trigger_patterns, *patterns]
        words = [*grammar.trigger_words, *words]
    tokens = [*grammar.trigger_tokens, *trigger_tokens]
    lazy = bool(patterns or words or tokens)
    trigger = Trigger(vocab, patterns, words, tokens, grammar.thinking) if lazy else None
    return _node(vocab, grammar, trigger)


def json_schema(vocab: Vocab, json_schema: Any) -> NativeNode:
    """Allow only JSON texts that follow a schema, by a grammar made of it."""
    return _node(vocab, Grammar(_converted(vocab._library, json_schema)))


def _node(vocab: Vocab, rules: Grammar, trigger: Trigger | None = None) -> NativeNode:
    library, lib = vocab._library, vocab._lib
    check_grammar(rules.text)
    if not isinstance(rules.root, str) or not re.fullmatch("[a-zA-Z0-9-]+", rules.root):
        raise GrammarError(f"root={rules.root!r}: give the name of a rule.")
    text, root = rules.text.encode(), rules.root.encode()
    error = library.new_error()
    with vocab._handle.lock:
        pointer = vocab._pointer
        place = lib.llamacffi_grammar_check(pointer, text, root, error)
        if place >= 0:
            message = library.message(error)
            raise GrammarError(f"The grammar is wrong {_spot(text, place)}: {message}.")
        node = lib.llamacffi_sampler_init_grammar(pointer, text, root, error)
        library.log.drain()
        if not node:
            raise GrammarError(f"The grammar cannot be used: {library.message(error)}.")
        made = NativeNode(vocab, node, trigger=trigger, prefix=rules.prefix.encode())
        if not made.accept_prefix():
            raise GrammarError(f"The grammar does not begin with its prefix {rules.prefix!r}.")
        return made


def _spot(text: bytes, place: int) -> str:
    before = re.split("\r\n|\r|\n", text[:place].decode("utf-8", "replace"))
    rest = text[place : place + 120].decode("utf-8", "ignore").splitlines()
    near = f", near {rest[0][:40]!r}" if rest and rest[0] else ", at its end"
    return f"in line {len(before)}, column {len(before[-1]) + 1}{near}"


def without_surrogates(rules: str) -> str:
    """Rules that upstream made of a JSON schema, so that their strings are valid JSON."""
    return rules.replace(_ANY_ESCAPE, _NO_SURROGATE)


def _converted(library: Library, schema: Any) -> str:
    """GBNF text of a schema (json_schema_to_grammar of llama.cpp's common/)."""
    from llamacffi.sampling.json_schema import schema_text  # 5 ms, and not for everyone

    error = library.new_error()
    described = schema_text(schema_of(schema)).encode()
    text = library.lib.llamacffi_json_schema_to_grammar(described, error)
    if not text:
        raise SchemaError(f"The JSON schema cannot be converted: {library.message(error)}.")
    try:
        return without_surrogates(library.ffi.string(text).decode())
    finally:
        library.lib.llamacffi_free(text)
