"""How Hugging Face's transformers renders chat templates, to compare llama.cpp's engine with."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["MOMENT", "RefusalError", "reference_render"]

MOMENT = datetime(2025, 2, 3, 4, 5, 6)


class RefusalError(TemplateError):
    """The template itself refuses: its raise_exception."""


class Generation(Extension):
    """`{% generation %}` marks what the assistant says for training; it renders its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own attribute

    def parse(self, parser: Parser) -> nodes.Node:
        """Take the tag away and keep what is inside, in a scope of its own as transformers does."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise RefusalError(message)


@functools.cache
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(source)


def reference_render(
    source: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    add_generation_prompt: bool = True,
    bos_token: str = "<s>",
    eos_token: str = "</s>",
    now: datetime = MOMENT,
    **variables: Any,
) -> str:
    """The prompt that `apply_chat_template(..., tokenize=False)` makes of a template.

    Args:
        source: The template.
        messages: The conversation.
        tools: Functions as JSON schemas; None for none, which the template sees as none.
        add_generation_prompt: End with the start of the assistant's turn.
        bos_token: What the template sees under this name.
        eos_token: What the template sees under this name.
        now: The moment that strftime_now writes.
        variables: Further variables of the template, such as enable_thinking.

    Raises:
        RefusalError: The template calls raise_exception.
        Exception: The template is wrong, or does something that jinja2 or Python cannot, such as
            adding None to a text.
    """
    return _compiled(source).render(
        messages=messages,
        tools=tools,
        documents=None,
        add_generation_prompt=add_generation_prompt,
        bos_token=bos_token,
        eos_token=eos_token,
        strftime_now=now.strftime,
        **variables,
    )
