"""llamacffi's vocabulary as llguidance wants it: the bytes of each token, and which end a text."""

from __future__ import annotations

import functools
import threading
import weakref

from llguidance import LLTokenizer, TokenizerWrapper

from llamacffi import Vocab
from llamacffi.errors import LlamaCffiError

__all__ = ["tokenizer_of"]

SHORT_BYTES = 256  # forced texts up to here are remembered

_tokenizers: weakref.WeakKeyDictionary[Vocab, LLTokenizer] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def tokenizer_of(vocab: Vocab) -> LLTokenizer:
    """The tokenizer of llguidance for a vocabulary; made once, which takes 0.3 s for 49,000 tokens.

    It does not keep the model alive, and goes on working after the model was closed.

    Raises:
        UnsupportedError: The model has no vocabulary.
        ClosedError: The model was closed before the tokenizer was made.
    """
    with _lock:
        tokenizer = _tokenizers.get(vocab)
        if tokenizer is None:
            tokens = _Tokens(vocab)
            tokenizer = LLTokenizer(TokenizerWrapper(tokens), eos_token=tokens.ends or None)
            _tokenizers[vocab] = tokenizer
        return tokenizer


class _Tokens:
    """What TokenizerWrapper asks of a tokenizer.

    A token is special, never part of a text, if it stands for no text or if it ends the answer.
    """

    bos_token_id = None

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = weakref.ref(vocab)
        every = range(vocab.n_tokens)
        self.ends = vocab.eog_tokens
        self.eos_token_id = self.ends[0] if self.ends else None
        self.tokens = [vocab.token_to_piece(token) for token in every]
        self.special_token_ids = [token for token in every if not self.tokens[token]]
        self.special_token_ids += [token for token in self.ends if self.tokens[token]]
        for token in self.special_token_ids:
            self.tokens[token] = b"\xff" + vocab.token_to_piece(token, special=True)
        self._by_text = {piece: token for token, piece in enumerate(self.tokens)}
        self._longest = max(map(len, self._by_text), default=0)
        self._remembered = functools.lru_cache(1024)(self._tokenize)

    def __call__(self, text: bytes) -> list[int]:
        """The tokens of a text that the grammar prescribes. An exception here ends the matcher."""
        return self._remembered(text) if len(text) <= SHORT_BYTES else self._tokenize(text)

    def _tokenize(self, text: bytes) -> list[int]:
        """As the model's tokenizer does it, unless that adds something, such as a space."""
        vocab = self._vocab()
        try:
            tokens = [] if vocab is None else vocab.tokenize(text, add_special=False)
        except LlamaCffiError:  # the model was closed
            tokens = []
        if b"".join(self.tokens[token] for token in tokens) == text:
            return tokens
        return self._longest_first(text)

    def _longest_first(self, text: bytes) -> list[int]:
        tokens: list[int] = []
        start = 0
        while start < len(text):
            ends = range(min(len(text), start + self._longest), start, -1)
            end = next((end for end in ends if text[start:end] in self._by_text), None)
            if end is None:
                raise ValueError(f"no token of the model spells {text[start : start + 8]!r}")
            tokens.append(self._by_text[text[start:end]])
            start = end
        return tokens
