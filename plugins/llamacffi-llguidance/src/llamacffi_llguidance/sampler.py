"""Making the processor: from what the user wrote to a matcher that works."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher, LLParserLimits

from llamacffi import Vocab
from llamacffi.errors import GrammarError, ParameterError, SchemaError
from llamacffi_llguidance.mask import Mask
from llamacffi_llguidance.messages import readable
from llamacffi_llguidance.processor import GrammarProcessor
from llamacffi_llguidance.schema import grammar_of
from llamacffi_llguidance.vocabulary import tokenizer_of

__all__ = ["create"]

MAX_FORCED_BYTES = 65536  # each step tokenises all of them: 20 ms
_LIMITS = LLParserLimits(verbose_errors=False)


def create(
    vocab: Vocab,
    *,
    json_schema: Mapping[str, Any] | str | bool | None = None,
    regex: str | None = None,
    lark: str | None = None,
) -> GrammarProcessor:
    """Hold the text to a grammar; exactly one of the three must be given.

    Args:
        vocab: The model's vocabulary.
        json_schema: A JSON schema, as a mapping or as JSON text; True for any JSON value.
        regex: A regular expression in Rust's syntax that the whole text matches.
        lark: A grammar in llguidance's dialect of Lark; the text is a `start`.

    Returns:
        A logits processor.

    Raises:
        ParameterError: None of the three was given, or several.
        SchemaError: The schema is malformed, or has keywords that cannot be enforced.
        GrammarError: The expression or grammar does not parse, allows no text, or is too large.
        UnsupportedError: The model has no vocabulary.
    """
    given = {"json_schema": json_schema, "regex": regex, "lark": lark}
    kinds = [kind for kind, value in given.items() if value is not None]
    if len(kinds) != 1:
        raise ParameterError(
            f"llguidance got {' and '.join(kinds) or 'nothing to hold the text to'}. "
            "Give exactly one of json_schema, regex and lark."
        )
    kind = kinds[0]
    if json_schema is not None:
        grammar = grammar_of(json_schema)
    else:
        text = given[kind]
        if not isinstance(text, str):
            raise TypeError(f"{kind} is a {type(text).__name__}; give a str.")
        # As JSON, lest a text that starts with a brace be read as one of llguidance's own grammars.
        grammar = (
            json.dumps({"grammars": [{"lark_grammar": text}]})
            if kind == "lark"
            else LLMatcher.grammar_from_regex(text)
        )
    tokenizer = tokenizer_of(vocab)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=_LIMITS)
    _check(matcher, kind)
    pristine = matcher.deep_copy()
    # Some grammars fail only when they are used: find it out before the text starts.
    Mask(tokenizer.vocab_size).compute(matcher)
    _check(matcher, kind)
    forced = len(matcher.compute_ff_bytes())
    if forced > MAX_FORCED_BYTES:
        raise _error(kind)(
            f"The {kind} prescribes at least {forced} bytes at the start of the text; "
            f"at most {MAX_FORCED_BYTES} are possible. Put them into the prompt, or after the text."
        )
    return GrammarProcessor(pristine, tokenizer.vocab_size)


def _check(matcher: LLMatcher, kind: str) -> None:
    if not matcher.is_error():
        return
    message = matcher.get_error()
    if message.startswith("NoExtension"):
        reason = "no text that this model can write follows it. Look for rules without an end."
    else:
        if kind == "regex":  # llguidance wraps it in a grammar, whose places would mislead
            message = re.sub(r"^.*?(?=regex parse error)", "", message, flags=re.DOTALL)
            message = message.split("\n   1 | start:")[0]
        reason = f"{readable(message)} Correct or simplify it."
    raise _error(kind)(f"The {kind} cannot be used: {reason}")


def _error(kind: str) -> type[GrammarError]:
    return SchemaError if kind == "json_schema" else GrammarError
