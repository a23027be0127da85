"""Log probabilities in OpenAI's two shapes: of a text completion, and of a chat completion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llamacffi.logprobs import TokenLogprobs
from llamacffi.vocab import Vocab

__all__ = ["chat_logprobs", "completion_logprobs"]


def completion_logprobs(
    entries: Iterable[TokenLogprobs | int], vocab: Vocab, offset: int
) -> dict[str, list[Any]]:
    """The shape of /v1/completions.

    Args:
        entries: One for each token; a bare token id for one without, the first of a prompt.
        vocab: Spells the tokens.
        offset: Characters before the first token, for `text_offset`.

    Returns:
        Lists with an element for each token: `tokens`, `text_offset`, `token_logprobs` and
        `top_logprobs` (dictionaries that contain the token itself, too).
    """
    result: dict[str, list[Any]] = {
        "tokens": [],
        "text_offset": [],
        "token_logprobs": [],
        "top_logprobs": [],
    }
    for entry in entries:
        token = entry if isinstance(entry, int) else entry.token
        text = _spell(vocab, token).decode("utf-8", "replace")
        result["tokens"].append(text)
        result["text_offset"].append(offset)
        offset += len(text)
        if isinstance(entry, int):
            result["token_logprobs"].append(None)
            result["top_logprobs"].append(None)
            continue
        top = {
            _spell(vocab, other).decode("utf-8", "replace"): logprob for other, logprob in entry.top
        }
        top.setdefault(text, entry.logprob)
        result["token_logprobs"].append(entry.logprob)
        result["top_logprobs"].append(top)
    return result


def chat_logprobs(
    entries: Iterable[TokenLogprobs | int], vocab: Vocab, _offset: int = 0
) -> dict[str, list[Any]]:
    """The shape of /v1/chat/completions, which knows no offsets.

    Args:
        entries: One for each token; bare token ids are left out.
        vocab: Spells the tokens.

    Returns:
        `content`: an element for each token, with `token` (text), `bytes` (a list of numbers),
        `logprob` and `top_logprobs` (a list of the first three, best first).
    """
    return {
        "content": [
            {
                **_described(vocab, entry.token, entry.logprob),
                "top_logprobs": [_described(vocab, token, value) for token, value in entry.top],
            }
            for entry in entries
            if not isinstance(entry, int)
        ]
    }


def _described(vocab: Vocab, token: int, logprob: float) -> dict[str, Any]:
    spelled = _spell(vocab, token)
    return {
        "token": spelled.decode("utf-8", "replace"),
        "bytes": list(spelled),
        "logprob": logprob,
    }


def _spell(vocab: Vocab, token: int) -> bytes:
    return vocab.token_to_piece(token, special=True)
