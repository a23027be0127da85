"""Which template a conversation is rendered with."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from llamacffi import plugins
from llamacffi.errors import TemplateError
from llamacffi.templates.jinja import JinjaTemplate
from llamacffi.templates.registry import find_template, templates
from llamacffi.templates.template import RenderOptions, Template
from llamacffi.templates.tools_as_text import ToolsAsText
from llamacffi.vocab import Vocab

__all__ = ["TemplateChoice", "choose_template", "token_options"]

TemplateChoice = Template | str | os.PathLike[str] | None

OWN, OWN_WITH_TOOLS = "tokenizer.chat_template", "tokenizer.chat_template.tool_use"
_log = logging.getLogger("llamacffi.templates")


def choose_template(metadata: Mapping[str, str], given: TemplateChoice = None) -> Template:
    """The template for a model.

    Args:
        metadata: The model's GGUF metadata.
        given: What the user wants: a template, the name of a registered one, Jinja text, or the
            path of a file with such. None for the first plugin's whose `matches` says so, else
            the one in the model's file.

    Returns:
        The template; one that has no way to offer tools gets one.

    Raises:
        TemplateError: No template has this name; or none was given, and the model's file has none.
            The message lists the names. Nothing is guessed.
    """
    template = _given(given) if given is not None else _matching(metadata) or _own(metadata)
    if isinstance(template, JinjaTemplate) and not template.capabilities()["supports_tools"]:
        return ToolsAsText(template)
    return template


def token_options(vocab: Vocab) -> RenderOptions:
    """Options that tell a template the model's control tokens."""

    def spelled(token: int | None) -> str:
        return "" if token is None else vocab.token_to_piece(token, special=True).decode()

    return RenderOptions(bos_token=spelled(vocab.bos), eos_token=spelled(vocab.eos))


def _given(given: Template | str | os.PathLike[str]) -> Template:
    if isinstance(given, Template):
        return given
    if isinstance(given, os.PathLike) or given.endswith(".jinja"):
        path = Path(given)
        try:
            return JinjaTemplate(path.stem, path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise TemplateError(f"The template {path} cannot be read: {error}.") from None
    if "{%" in given or "{{" in given:
        return JinjaTemplate("given", given)
    return find_template(given)


def _matching(metadata: Mapping[str, str]) -> Template | None:
    for template in templates().values():
        owner = plugins.owner_of(template)
        try:
            matches = template.matches(metadata)
        except Exception as error:
            _log.warning("template %r of plugin %r is skipped: %r", template.name, owner, error)
            continue
        if matches:
            _log.info("the template %r of plugin %r matches the model", template.name, owner)
            return template
    return None


def _own(metadata: Mapping[str, str]) -> Template:
    source, with_tools = metadata.get(OWN, ""), metadata.get(OWN_WITH_TOOLS)
    if not source and not with_tools:
        raise TemplateError(
            "The model's file has no chat template, and no plugin has one for it. Name one "
            f"(chat_format=, template= or --template): {', '.join(templates())}; or give its Jinja "
            "text."
        )
    return JinjaTemplate(
        "the model's own", source or with_tools or "", tool_source=with_tools or None
    )
