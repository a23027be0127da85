"""The vocabulary of a model: text to tokens and back."""

from __future__ import annotations

import codecs
import functools
import operator
import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llamacffi.errors import InvalidTokenError, ParameterError, UnsupportedError

if TYPE_CHECKING:
    from llamacffi.model import Model

__all__ = ["StreamDecoder", "Vocab", "check_tokens"]

MAX_TEXT_BYTES = 2**31 - 1024  # the C API counts in int32_t
_TYPES = {0: "none", 1: "spm", 2: "bpe", 3: "wpm", 4: "ugm", 5: "rwkv", 6: "plamo2", 7: "test"}


def check_tokens(tokens: Iterable[int], n_vocab: int) -> list[int]:
    """Refuse token ids outside the vocabulary; llama.cpp reads out of bounds or aborts on them.

    Returns:
        The ids as a list of Python integers.

    Raises:
        InvalidTokenError: Naming the first bad id and its place.
        TypeError: Something among them is no integer.
    """
    checked = list(map(operator.index, tokens))
    if not checked or (min(checked) >= 0 and max(checked) < n_vocab):
        return checked
    index, bad = next((i, t) for i, t in enumerate(checked) if not 0 <= t < n_vocab)
    raise InvalidTokenError(
        f"Token {bad} at index {index} is not in the vocabulary: ids go from 0 to {n_vocab - 1}."
    )


class Vocab:
    """Tokenise and detokenise with a model's vocabulary; `model.vocab`, not made directly.

    Safe to use from several threads. All methods raise ClosedError after the model was closed.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._handle = model._handle
        self._library = library = model.library
        self._ffi, self._lib = library.ffi, library.lib
        self._error = library.new_error()
        self._pointer_value = self._lib.llama_model_get_vocab(self._handle.pointer)
        self.n_tokens: int = self._lib.llama_vocab_n_tokens(self._pointer_value)
        self._pieces: dict[int, bytes] = {}

    def __len__(self) -> int:
        return self.n_tokens

    def __repr__(self) -> str:
        return f"Vocab({self.type}, {self.n_tokens} tokens)"

    @property
    def _pointer(self) -> Any:
        _ = self._handle.pointer  # the vocabulary lives in the model
        return self._pointer_value

    def _present(self) -> Any:
        """The pointer, if there is a vocabulary behind it; upstream asserts that there is."""
        if self.type == "none":
            raise UnsupportedError(
                "This model has no vocabulary: its tokens are numbers, and no text belongs to them."
            )
        return self._pointer

    @property
    def type(self) -> str:
        """The kind of tokenizer: "none", "spm", "bpe", "wpm", "ugm", ... (llama_vocab_type)."""
        with self._handle.lock:
            return _TYPES.get(int(self._lib.llama_vocab_type(self._pointer)), "unknown")

    # -- text to tokens ---------------------------------------------------------------------

    def tokenize(
        self, text: str | bytes, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Turn text into token ids (llama_tokenize).

        Args:
            text: The text; bytes are taken as UTF-8.
            add_special: Add BOS and EOS where the model is configured to have them.
            parse_special: Read the spelling of control tokens ("<|im_end|>") as these tokens.
                Leave it off for text that you did not write yourself.

        Returns:
            Token ids.

        Raises:
            UnsupportedError: The model has no vocabulary.
        """
        if not isinstance(text, str | bytes | bytearray):
            raise TypeError(f"text is a {type(text).__name__}; give a str or bytes.")
        data = text.encode() if isinstance(text, str) else bytes(text)
        if len(data) > MAX_TEXT_BYTES:
            raise ParameterError(
                f"The text has {len(data)} bytes; at most {MAX_TEXT_BYTES} are possible."
            )
        with self._handle.lock:
            pointer = self._present()
            room = len(data) + 8
            while True:
                tokens = self._ffi.new("llama_token[]", room)
                count = self._lib.llamacffi_tokenize(
                    pointer, data, len(data), tokens, room, add_special, parse_special,
                    self._error,
                )  # fmt: skip
                self._library.check(self._error, "Tokenising")
                if count >= 0:
                    return list(self._ffi.unpack(tokens, count)) if count else []
                room = -count

    # -- tokens to text ---------------------------------------------------------------------

    def detokenize(
        self,
        tokens: Sequence[int],
        remove_special: bool = False,
        unparse_special: bool = False,
    ) -> str:
        """Turn token ids into text, the inverse of tokenize (llama_detokenize).

        Args:
            tokens: Token ids.
            remove_special: Drop the BOS and EOS that tokenize added.
            unparse_special: Spell control tokens out instead of dropping them.

        Returns:
            The text; bytes that are not UTF-8 become U+FFFD.

        Raises:
            InvalidTokenError: An id is outside the vocabulary.
        """
        return self.detokenize_bytes(tokens, remove_special, unparse_special).decode(
            "utf-8", "replace"
        )

    def detokenize_bytes(
        self,
        tokens: Sequence[int],
        remove_special: bool = False,
        unparse_special: bool = False,
    ) -> bytes:
        """As detokenize, but the raw bytes: half a character stays half a character."""
        checked = check_tokens(tokens, self.n_tokens)
        if not checked:
            return b""
        with self._handle.lock:
            pointer = self._present()
            array = self._ffi.new("llama_token[]", checked)
            room = len(array) * 8 + 64
            while True:
                text = self._ffi.new("char[]", room)
                count = self._lib.llamacffi_detokenize(
                    pointer, array, len(array), text, room, remove_special, unparse_special,
                    self._error,
                )  # fmt: skip
                self._library.check(self._error, "Detokenising")
                if count >= 0:
                    return bytes(self._ffi.buffer(text, count))
                room = -count

    def token_to_piece(self, token: int, special: bool = False) -> bytes:
        """The bytes that one token stands for (llama_token_to_piece).

        Args:
            token: The token id.
            special: Spell control tokens out; otherwise they are empty.

        Raises:
            InvalidTokenError: The id is outside the vocabulary.
        """
        _ = self._handle.pointer  # refuses a closed model, though the piece may be known
        if not special and type(token) is int and (known := self._pieces.get(token)) is not None:
            return known
        (token,) = check_tokens((token,), self.n_tokens)
        with self._handle.lock:
            pointer = self._present()
            room = 64
            while True:
                text = self._ffi.new("char[]", room)
                count = self._lib.llamacffi_token_to_piece(
                    pointer, token, text, room, 0, special, self._error
                )
                self._library.check(self._error, f"Reading token {token}")
                if count >= 0:
                    break
                room = -count
        piece = bytes(self._ffi.buffer(text, count))
        if not special:
            self._pieces[token] = piece
        return piece

    # -- single tokens ----------------------------------------------------------------------

    def _token(self, function: str) -> int | None:
        with self._handle.lock:
            token = getattr(self._lib, function)(self._pointer)
        return None if token < 0 else int(token)

    @property
    def bos(self) -> int | None:
        """Beginning of sentence; None if the model has none (llama_vocab_bos)."""
        return self._token("llama_vocab_bos")

    @property
    def eos(self) -> int | None:
        """End of sentence (llama_vocab_eos)."""
        return self._token("llama_vocab_eos")

    @property
    def eot(self) -> int | None:
        """End of turn (llama_vocab_eot)."""
        return self._token("llama_vocab_eot")

    @property
    def sep(self) -> int | None:
        """Sentence separator (llama_vocab_sep)."""
        return self._token("llama_vocab_sep")

    @property
    def nl(self) -> int | None:
        """New line (llama_vocab_nl)."""
        return self._token("llama_vocab_nl")

    @property
    def pad(self) -> int | None:
        """Padding (llama_vocab_pad)."""
        return self._token("llama_vocab_pad")

    @property
    def mask(self) -> int | None:
        """Mask (llama_vocab_mask)."""
        return self._token("llama_vocab_mask")

    @property
    def fim_prefix(self) -> int | None:
        """Fill-in-the-middle: before the prefix (llama_vocab_fim_pre)."""
        return self._token("llama_vocab_fim_pre")

    @property
    def fim_suffix(self) -> int | None:
        """Fill-in-the-middle: before the suffix (llama_vocab_fim_suf)."""
        return self._token("llama_vocab_fim_suf")

    @property
    def fim_middle(self) -> int | None:
        """Fill-in-the-middle: before the middle (llama_vocab_fim_mid)."""
        return self._token("llama_vocab_fim_mid")

    @property
    def add_bos(self) -> bool:
        """Whether tokenize(add_special=True) puts BOS in front (llama_vocab_get_add_bos)."""
        with self._handle.lock:
            return bool(self._lib.llama_vocab_get_add_bos(self._pointer))

    @property
    def add_eos(self) -> bool:
        """Whether tokenize(add_special=True) puts EOS at the end (llama_vocab_get_add_eos)."""
        with self._handle.lock:
            return bool(self._lib.llama_vocab_get_add_eos(self._pointer))

    @property
    def add_sep(self) -> bool:
        """Whether a separator belongs between two texts (llama_vocab_get_add_sep)."""
        with self._handle.lock:
            return bool(self._lib.llama_vocab_get_add_sep(self._pointer))

    def is_eog(self, token: int) -> bool:
        """Whether the token ends a generation: EOS, EOT and the like (llama_vocab_is_eog)."""
        check_tokens((token,), self.n_tokens)
        with self._handle.lock:
            return bool(self._lib.llama_vocab_is_eog(self._present(), token))

    @functools.cached_property
    def eog_tokens(self) -> list[int]:
        """Every token that ends a generation."""
        with self._handle.lock:
            pointer, ends = self._present(), self._lib.llama_vocab_is_eog
            return [token for token in range(self.n_tokens) if ends(pointer, token)]

    @functools.cached_property
    def control_spellings(self) -> re.Pattern[str] | None:
        """Matches, as group 1, what a control token is spelled like; None if there are none.

        These are the tokens that `tokenize` reads with parse_special only. The pattern looks
        ahead, so that overlapping spellings are found.
        """
        return self._spellings(
            self._lib.LLAMA_TOKEN_ATTR_CONTROL | self._lib.LLAMA_TOKEN_ATTR_UNKNOWN
        )

    @functools.cached_property
    def mark_spellings(self) -> re.Pattern[str] | None:
        """As control_spellings, of the tokens that were added to the vocabulary as a whole and
        that `tokenize` reads in any text, white space aside.
        """
        return self._spellings(self._lib.LLAMA_TOKEN_ATTR_USER_DEFINED)

    def _spellings(self, attributes: int) -> re.Pattern[str] | None:
        with self._handle.lock:
            pointer, attributes_of = self._present(), self._lib.llama_vocab_get_attr
            tokens = [t for t in range(self.n_tokens) if attributes_of(pointer, t) & attributes]
        pieces = (self.token_to_piece(token, special=True) for token in tokens)
        spelled = {piece.decode("utf-8", "ignore") for piece in pieces if piece.strip()}
        if not spelled - {""}:
            return None
        longest_first = sorted(spelled - {""}, key=lambda text: (-len(text), text))
        return re.compile(f"(?=({'|'.join(map(re.escape, longest_first))}))")

    def is_control(self, token: int) -> bool:
        """Whether the token is a control token, not text (llama_vocab_is_control)."""
        check_tokens((token,), self.n_tokens)
        with self._handle.lock:
            return bool(self._lib.llama_vocab_is_control(self._present(), token))

    def text(self, token: int) -> str:
        """The token as the vocabulary spells it, e.g. "Ġhello" (llama_vocab_get_text)."""
        check_tokens((token,), self.n_tokens)
        with self._handle.lock:
            text = self._lib.llama_vocab_get_text(self._present(), token)
            return str(self._ffi.string(text).decode("utf-8", "replace"))

    def score(self, token: int) -> float:
        """The token's score in the vocabulary (llama_vocab_get_score)."""
        check_tokens((token,), self.n_tokens)
        with self._handle.lock:
            return float(self._lib.llama_vocab_get_score(self._present(), token))

    def attributes(self, token: int) -> int:
        """The token's attributes, a mask of enum llama_token_attr (llama_vocab_get_attr)."""
        check_tokens((token,), self.n_tokens)
        with self._handle.lock:
            return int(self._lib.llama_vocab_get_attr(self._present(), token))


class StreamDecoder:
    """Tokens to text, one at a time: a character whose bytes span tokens comes out whole.

    Args:
        vocab: The vocabulary.
        spelled: Control tokens that come out as they are spelled; the others come out as nothing.
    """

    def __init__(self, vocab: Vocab, spelled: Collection[int] = ()) -> None:
        self._vocab = vocab
        self._spelled = frozenset(spelled)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Add a token; returns the text that is complete now, often "" or a few characters."""
        piece = self._vocab.token_to_piece(token, special=token in self._spelled)
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """End the text: what is left of an incomplete character comes out as U+FFFD."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
