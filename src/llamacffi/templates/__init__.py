"""Prompt templates: from a list of messages to the prompt that a model was trained on."""

from llamacffi.templates.registry import find_template, templates
from llamacffi.templates.template import Message, Prompt, Template

__all__ = ["Message", "Prompt", "Template", "find_template", "templates"]
