"""Where llama.cpp's engine does not write what transformers writes, and why."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ANY", "DIFFERENCES"]

ANY = "*"  # some templates or conversations, at least one

_REPR = "a dictionary in a text: the repr of Python, or that of the engine"
_QUOTES = "a text with both kinds of quotes: Python's repr has single quotes, the engine's double"
_BLOCKS = "common/chat makes content blocks of content and reasoning_content for this template"
_OLD_GEMMA = "common/chat writes results in Gemma 4's own form for its early templates"
_STEP_FUN = "common/chat trims contents for StepFun (llama.cpp issue 24181)"
_NAMES = "common/chat names the thoughts as this template wants them; transformers drops them"

# (template, conversation): the reason. One that no longer differs fails the tests.
DIFFERENCES: Mapping[tuple[str, str], str] = {
    (ANY, "unicode white space"): "the engine trims ASCII white space only",
    ("Apriel-1.6-15b-Thinker-fixed", "several tools"): _QUOTES,
    ("Apriel-1.6-15b-Thinker-fixed", "nested schema"): _QUOTES,
    ("Apriel-1.6-15b-Thinker-fixed", "call, many kinds of values"): _QUOTES,
    ("unsloth-Apriel-1.5", "several tools"): _QUOTES,
    ("unsloth-Apriel-1.5", "nested schema"): _QUOTES,
    ("unsloth-Apriel-1.5", "call, many kinds of values"): _QUOTES,
    ("moonshotai-Kimi-K2", "result in parts"): _REPR,
    ("google-gemma-4-31B-it", "call, many kinds of values"): "None: Python's word, or nothing",
    ("google-gemma-4-31B-it", "call with a text"): "common/chat opens a turn after a result",
    ("google-gemma-4-31B-it-interleaved", ANY): _OLD_GEMMA,
    ("LFM2.5-8B-A1B", "thoughts at the end"): _NAMES,
    ("LFM2.5-8B-A1B", "thoughts before a call"): _NAMES,
    ("openai-gpt-oss-120b", "thoughts at the end"): _NAMES,
    ("openai-gpt-oss-120b", "thoughts before a call"): _NAMES,
    ("openai-gpt-oss-120b", "answered, no generation prompt"): (
        "common/chat writes <|end|> for <|return|>, which ends a text in training"
    ),
    ("StepFun3.5-Flash", "white space"): _STEP_FUN,
    ("StepFun3.5-Flash", "several parts"): _STEP_FUN,
    ("StepFun3.5-Flash", "parts of an answer"): _STEP_FUN,
    ("meetkai-functionary-medium-v3.1", ANY): (
        "in jinja2, `safe` makes a text escape as HTML what is added to it"
    ),
    ("mistralai-Ministral-3-14B-Reasoning-2512", "empty contents"): (
        "the template refuses an answer that is empty; common/chat gives it an empty block"
    ),
    ("mistralai-Ministral-3-14B-Reasoning-2512", "thoughts in history"): _BLOCKS,
    ("mistralai-Ministral-3-14B-Reasoning-2512", "thoughts at the end"): _BLOCKS,
    ("mistralai-Ministral-3-14B-Reasoning-2512", "thoughts before a call"): _BLOCKS,
    ("unsloth-mistral-Devstral-Small-2507", "thoughts in history"): (
        f"{_BLOCKS}, which drops them with the answer"
    ),
    ("unsloth-mistral-Devstral-Small-2507", "thoughts at the end"): (
        f"{_BLOCKS}, which drops them with the answer"
    ),
}
