"""Log probabilities in OpenAI's two shapes: of a text completion, and of a chat completion."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from llamacffi.logprobs import TokenLogprobs
from llamacffi.vocab import StreamDecoder, Vocab

__all__ = ["Offsets", "chat_logprobs", "completion_logprobs", "prompt_offsets"]


class Offsets:
    """Where the texts of tokens begin, one after the other.

    Args:
        vocab: Makes text of the tokens.
        start: Characters before the first one.
        spelled: Control tokens that count with their spelling; the others count as nothing.
    """

    def __init__(self, vocab: Vocab, start: int, spelled: Collection[int] = ()) -> None:
        self._decoder = StreamDecoder(vocab, spelled)
        self.end = start

    def of(self, tokens: Sequence[int]) -> Iterator[int]:
        """The offsets of the next tokens."""
        for token in tokens:
            yield self.end
            self.end += len(self._decoder.push(token))


def prompt_offsets(vocab: Vocab, tokens: Sequence[int], length: int) -> list[int]:
    """Where the tokens of a prompt begin in its text, which has `length` characters.

    Control tokens count if the text spells them; a BOS and a space that the tokenizer has put in
    front do not.
    """
    found: list[int] = []
    end = 0
    for spelled in (tokens, ()):
        offsets = Offsets(vocab, 0, spelled)
        found, end = list(offsets.of(tokens)), offsets.end
        if end == length:
            break
    return [min(max(0, offset - (end - length)), length) for offset in found]


def completion_logprobs(
    entries: Sequence[TokenLogprobs | int], vocab: Vocab, offsets: Sequence[int]
) -> dict[str, list[Any]]:
    r"""The shape of /v1/completions.

    Args:
        entries: One for each token; a bare token id for one without, the first of a prompt.
        vocab: Spells the tokens.
        offsets: Where the text of each token begins, in characters.

    Returns:
        Lists with an element for each token: `tokens`, `text_offset`, `token_logprobs` and
        `top_logprobs` (dictionaries that contain the token itself, too). Tokens that are parts
        of a character are spelled as in `bytes:\xf0\x9f`.
    """
    result: dict[str, list[Any]] = {
        "tokens": [],
        "text_offset": list(offsets),
        "token_logprobs": [],
        "top_logprobs": [],
    }
    for entry in entries:
        token = entry if isinstance(entry, int) else entry.token
        text = _text(vocab, token)
        result["tokens"].append(text)
        if isinstance(entry, int):
            result["token_logprobs"].append(None)
            result["top_logprobs"].append(None)
            continue
        top: dict[str, float] = {}
        for other, logprob in entry.top:  # best first: of two that are spelled alike, the best
            top.setdefault(_text(vocab, other), logprob)
        top[text] = entry.logprob
        result["token_logprobs"].append(entry.logprob)
        result["top_logprobs"].append(top)
    return result


def chat_logprobs(
    entries: Sequence[TokenLogprobs | int], vocab: Vocab, _offsets: Sequence[int] = ()
) -> dict[str, list[Any]]:
    """The shape of /v1/chat/completions, which has no offsets.

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
        "token": _text(vocab, token),
        "bytes": list(spelled),
        "logprob": logprob,
    }


def _text(vocab: Vocab, token: int) -> str:
    spelled = _spell(vocab, token)
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def _spell(vocab: Vocab, token: int) -> bytes:
    return vocab.token_to_piece(token, special=True)
