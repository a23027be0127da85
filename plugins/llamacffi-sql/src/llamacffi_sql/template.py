"""The template: headings and tags of text-to-SQL models, as SQLCoder was trained on them."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llamacffi import Grammar
from llamacffi.errors import TemplateError
from llamacffi.templates import Message, Prompt, RenderOptions, Template, Tool
from llamacffi_sql.answer import STOPS, parse
from llamacffi_sql.conversation import Turn, turns
from llamacffi_sql.escaping import escaped

__all__ = ["SqlTemplate"]

DEFAULT = RenderOptions()

# What a model calls itself. Metadata has no arrays yet, and so no tags.
_NAMES = ("general.name", "general.basename", "general.finetune", "general.tags")
_SQLCODER = re.compile(r"(?<![a-z])sql-?coder", re.IGNORECASE)
_TEXT_TO_SQL = re.compile(r"(?<![a-z])(?:text|nl|natural language)[-_ ]?(?:to|2)[-_ ]?sql", re.I)

Parts = list[tuple[str, bool]]


class SqlTemplate(Template):
    """Questions about a database, answered by SQL."""

    name = "sql"
    description = "Questions about a database, answered by SQL (SQLCoder's format)."

    def matches(self, metadata: Mapping[str, str]) -> bool:
        """Whether the model calls itself SQLCoder, or text-to-SQL and has no template of its own.

        SQLCoders on Llama 3 (8B) were trained on its turns instead, and carry a template of these.
        """
        own = metadata.get("tokenizer.chat_template", "")
        names = " ".join(metadata.get(key, "") for key in _NAMES)
        if _SQLCODER.search(names):
            return "<|start_header_id|>" not in own
        return bool(_TEXT_TO_SQL.search(names)) and not own

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        options: RenderOptions = DEFAULT,
    ) -> Prompt:
        """See Template.

        Args:
            messages: System messages before the question that they are for: statements that
                define tables go under "Database Schema", the rest under "Instructions". Then a
                question, its answer in SQL, and so on.
            tools: None: the format has none.
            options: `variables={"read_only": True}` holds the answer to one SELECT.

        Raises:
            TemplateError: The format cannot express the conversation, or an option.
        """
        _check(tools, options)
        conversation = turns(messages)
        asked = conversation[-1].answer is None
        if options.add_generation_prompt and not asked:
            raise TemplateError(
                "The last message is an answer: end with a question, or set "
                "add_generation_prompt=False."
            )
        parts: Parts = []
        for turn in conversation:
            parts += _task(turn)
            if turn.answer is not None:
                parts += [*_heading(turn), *_answer(turn)]
        if options.add_generation_prompt:
            parts += _heading(conversation[-1])
        return Prompt(
            tuple(part for part in parts if part[0]),
            stops=STOPS,
            grammar=_grammar() if options.variables.get("read_only") else None,
        )

    def parse(self, text: str, partial: bool = False) -> dict[str, Any]:
        """SQL as "content", what explains it as "reasoning_content". See llamacffi_sql.answer."""
        return parse(text, partial)


def _check(tools: Sequence[Tool], options: RenderOptions) -> None:
    if tools:
        raise TemplateError(
            "The format sql has no tools: its answers are SQL. Leave tools= out, or use the "
            "model's own template."
        )
    if options.json_schema is not None:
        raise TemplateError(
            "The format sql answers in SQL, which follows no JSON schema: leave it out."
        )
    unknown = set(options.variables) - {"read_only"}
    if unknown:
        raise TemplateError(
            f"The format sql has no variable {min(unknown, key=str)!r}; it has read_only."
        )
    value = options.variables.get("read_only", False)
    if not isinstance(value, bool):
        raise TemplateError(f"read_only={value!r:.100}: give True or False.")


@functools.cache
def _grammar() -> Grammar:
    return Grammar.from_file(Path(__file__).with_name("read_only.gbnf"))


def _task(turn: Turn) -> Parts:
    parts = [
        ("### Task\nGenerate a SQL query to answer [QUESTION]", True),
        (escaped(turn.question), False),
        ("[/QUESTION]\n\n", True),
    ]
    if turn.instructions:
        parts += [
            ("### Instructions\n", True),
            (escaped("\n".join(turn.instructions)), False),
            ("\n\n", True),
        ]
    if turn.schema:
        parts += [
            ("### Database Schema\n", True),
            ("The query will run on a database with the following schema:\n", True),
            (escaped("\n".join(turn.schema)), False),
            ("\n\n", True),
        ]
    return parts


def _heading(turn: Turn) -> Parts:
    return [
        ("### Answer\n", True),
        ("Given the database schema, here is the SQL query that answers [QUESTION]", True),
        (escaped(turn.question), False),
        ("[/QUESTION]\n[SQL]\n", True),
    ]


def _answer(turn: Turn) -> Parts:
    lines = [f"-- {line}".rstrip() for line in turn.explanation.splitlines()]
    answer = "\n".join([*lines, turn.answer or ""]).rstrip()
    return [(escaped(answer), False), ("\n[/SQL]\n\n", True)]
