"""The templates of this distribution, registered through the same hook as anyone's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from llamacffi.errors import TemplateError
from llamacffi.hookspecs import hookimpl
from llamacffi.templates.template import Message, Prompt, Template

__all__ = ["ChatML", "register_templates"]


class ChatML(Template):
    """OpenAI's ChatML: `<|im_start|>role`, content, `<|im_end|>`."""

    name = "chatml"

    def matches(self, metadata: Mapping[str, str]) -> bool:
        """Models whose own template writes ChatML's marks."""
        return "<|im_start|>" in metadata.get("tokenizer.chat_template", "")

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> Prompt:
        """See Template."""
        parts: list[tuple[str, bool]] = []
        for message in messages:
            role, content = message.get("role"), message.get("content")
            if role not in ("system", "user", "assistant") or not isinstance(content, str):
                raise TemplateError(
                    f"The message {dict(message)!r} cannot be rendered as ChatML: it needs a role "
                    "(system, user, assistant) and a content that is text."
                )
            parts += [(f"<|im_start|>{role}\n", True), (content, False), ("<|im_end|>\n", True)]
        if add_generation_prompt:
            parts.append(("<|im_start|>assistant\n", True))
        return Prompt(tuple(parts), stops=("<|im_end|>",))


@hookimpl
def register_templates(register: Callable[[Template], None]) -> None:
    """Register the built-in templates."""
    register(ChatML())
