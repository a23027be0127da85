"""What a template is, and the prompt that it makes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamacffi.vocab import Vocab

__all__ = ["Message", "Prompt", "Template"]

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt.

    The template's own text and the messages' contents are kept apart, because only the former
    may become control tokens: a user who types "<|im_end|>" must not end a turn.

    Attributes:
        parts: (text, trusted) pairs in order; trusted text is the template's own.
        stops: Strings that end the answer, besides the model's own end tokens.
    """

    parts: tuple[tuple[str, bool], ...]
    stops: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All of it as one string, for people to read."""
        return "".join(text for text, _ in self.parts)

    def tokens(self, vocab: Vocab) -> list[int]:
        """Tokenise: control tokens only from trusted text, and BOS as the model wants it."""
        bos = [vocab.bos] if vocab.add_bos and vocab.bos is not None else []
        tokens = [
            token
            for text, trusted in self.parts
            for token in vocab.tokenize(text, add_special=False, parse_special=trusted)
        ]
        return tokens if tokens[:1] == bos else bos + tokens


class Template(ABC):
    """A prompt format. Plugins register instances of subclasses.

    Attributes:
        name: What users write: `--template chatml`. Unique; lower case.
    """

    name: str

    def matches(self, metadata: Mapping[str, str]) -> bool:
        """Whether this is the template for a model with this GGUF metadata."""
        return False

    @abstractmethod
    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> Prompt:
        """Make the prompt of a conversation.

        Args:
            messages: Each with "role" ("system", "user", "assistant") and "content", a string.
            add_generation_prompt: End with the start of the assistant's turn.

        Raises:
            TemplateError: A role or content that the format cannot express.
        """

    def parse(self, text: str, partial: bool = False) -> dict[str, Any]:
        """Turn the model's answer into a message; partial while it is still being generated."""
        return {"role": "assistant", "content": text}
