"""What a template is, and the prompt that it makes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamacffi.sampling.grammar import Grammar
from llamacffi.sampling.thinking import Thinking
from llamacffi.templates.shielding import shielded_tokens
from llamacffi.vocab import Vocab

__all__ = ["AnswerParser", "Message", "Prompt", "RenderOptions", "Template", "Thinking", "Tool"]

# OpenAI's shapes: {"role": ..., "content": ...}, {"type": "function", "function": {...}}.
Message = Mapping[str, Any]
Tool = Mapping[str, Any]
# Turns an answer into a message; the flag says that it is still being generated.
AnswerParser = Callable[[str, bool], dict[str, Any]]


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt.

    The template's own text and the messages' contents are kept apart, because only the former
    may become control tokens: a user who types "<|im_end|>" must not end a turn.

    Attributes:
        parts: (text, trusted) pairs in order; trusted text is the template's own.
        stops: Strings that end the answer, besides the model's own end tokens.
        grammar: Rules that the answer must follow: those of tool calls, most often lazy.
        spelled: Control tokens that the answer's text spells out, because the parser needs them.
        thinking: How the model marks its thoughts; None if it does not think.
        parser: Turns the answer to this prompt into a message; None for the template's `parse`.
    """

    parts: tuple[tuple[str, bool], ...]
    stops: tuple[str, ...] = ()
    grammar: Grammar | None = None
    spelled: tuple[str, ...] = ()
    thinking: Thinking | None = None
    parser: AnswerParser | None = None

    @property
    def text(self) -> str:
        """All of it as one string, for people to read."""
        return "".join(text for text, _ in self.parts)

    def tokens(self, vocab: Vocab) -> list[int]:
        """Tokenise: control tokens only from trusted text, and BOS as the model wants it.

        Where the contents spell no control token, these are the tokens of `text` as a whole.
        """
        bos = [vocab.bos] if vocab.add_bos and vocab.bos is not None else []
        tokens = shielded_tokens(vocab, self.parts)
        return tokens if tokens[:1] == bos else bos + tokens


@dataclass(frozen=True)
class RenderOptions:
    """What a template is told besides messages and tools.

    Attributes:
        tool_choice: "auto", "none", "required", or the name of the tool that must be called.
        parallel_tool_calls: Whether one answer may call several tools.
        add_generation_prompt: End with the start of the assistant's turn.
        enable_thinking: Let a model that can think do so.
        json_schema: What the answer must follow; for templates that put it into their grammar,
            behind the thoughts.
        bos_token: The model's beginning-of-sentence token, spelled out.
        eos_token: The model's end-of-sentence token, spelled out.
        variables: More variables for the template, such as {"reasoning_effort": "low"}.
    """

    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    add_generation_prompt: bool = True
    enable_thinking: bool = True
    json_schema: Any = None
    bos_token: str = ""
    eos_token: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)


DEFAULT = RenderOptions()


class Template(ABC):
    """A prompt format. Plugins register instances of subclasses.

    Attributes:
        name: What users write: `--template chatml`. Unique; lower case.
        description: One line for `llamacffi plugins`.
    """

    name: str
    description: str = ""

    def matches(self, metadata: Mapping[str, str]) -> bool:
        """Whether this is the template for a model with this GGUF metadata."""
        return False

    @abstractmethod
    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        options: RenderOptions = DEFAULT,
    ) -> Prompt:
        """Make the prompt of a conversation.

        Args:
            messages: OpenAI's: each with "role" and "content", a string or a list of text parts;
                "tool_calls", "tool_call_id" and "reasoning_content" where they apply.
            tools: OpenAI's descriptions of the tools that the model may call.
            options: See RenderOptions.

        Raises:
            TemplateError: Something that the format cannot express.
        """

    def parse(self, text: str, partial: bool = False) -> dict[str, Any]:
        """Turn the model's answer into a message; partial while it is still being generated.

        Whatever is returned for a partial text must be a beginning of what is returned later.
        """
        return {"role": "assistant", "content": text}
