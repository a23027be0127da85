"""Prompt templates: from a list of messages to the prompt that a model was trained on."""

from llamacffi.templates.choice import choose_template, token_options
from llamacffi.templates.jinja import JinjaTemplate
from llamacffi.templates.messages import checked_messages, checked_tools, text_of
from llamacffi.templates.registry import find_template, templates
from llamacffi.templates.template import (
    AnswerParser,
    Message,
    Prompt,
    RenderOptions,
    Template,
    Thinking,
    Tool,
)

__all__ = [
    "AnswerParser",
    "JinjaTemplate",
    "Message",
    "Prompt",
    "RenderOptions",
    "Template",
    "Thinking",
    "Tool",
    "checked_messages",
    "checked_tools",
    "choose_template",
    "find_template",
    "templates",
    "text_of",
    "token_options",
]
