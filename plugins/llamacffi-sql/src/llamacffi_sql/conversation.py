"""A conversation as turns: what the database is, a question, its answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamacffi.errors import TemplateError
from llamacffi_sql.schema import split

__all__ = ["Turn", "turns"]

ROLES = "system (or developer), user and assistant"


@dataclass
class Turn:
    """One question.

    Attributes:
        question: The question.
        schema: Statements that define tables, new with this question.
        instructions: What else the system messages before it say.
        answer: SQL; None for the question that is to be answered.
        explanation: What goes into comments before the answer.
    """

    question: str
    schema: list[str] = field(default_factory=list)
    instructions: list[str] = field(default_factory=list)
    answer: str | None = None
    explanation: str = ""


def turns(messages: Iterable[Any]) -> list[Turn]:
    """Read OpenAI's messages.

    Raises:
        TemplateError: They are none, or not in the order that the format can express.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        raise TemplateError(f"messages={messages!r:.100}: give a list of messages.")
    made: list[Turn] = []
    waiting: list[str] = []  # system messages for the next question
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role, content = _role(where, message), _content(where, message)
        if role in ("system", "developer"):
            waiting.append(content)
        elif role == "user":
            if made and made[-1].answer is None:
                raise TemplateError(
                    f"{where} is a second question without an answer to the first: put both into "
                    "one message."
                )
            made.append(_turn(content, waiting))
            waiting = []
        else:
            if not made or made[-1].answer is not None or waiting:
                raise TemplateError(f"{where} answers no question: put one before it.")
            made[-1].answer = content.strip()
            made[-1].explanation = _text(where, "reasoning_content", message).strip()
    if waiting or not made:
        raise TemplateError("There is no question after the system messages: add a user message.")
    return made


def _turn(question: str, system: Sequence[str]) -> Turn:
    turn = Turn(question.strip())
    for content in system:
        schema, instructions = split(content)
        turn.schema += [schema] if schema else []
        turn.instructions += [instructions] if instructions else []
    return turn


def _role(where: str, message: Any) -> str:
    if not isinstance(message, Mapping):
        raise TemplateError(f"{where} is {message!r:.200}: give a dictionary.")
    role = message.get("role")
    if role in ("tool", "function") or message.get("tool_calls"):
        raise TemplateError(
            f"{where} is about a tool call, and the format sql has none. Leave those messages out, "
            "or use the model's own template."
        )
    if role not in ("system", "developer", "user", "assistant"):
        raise TemplateError(f"{where} has the role {role!r:.100}; the format sql has {ROLES}.")
    return str(role)


def _content(where: str, message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list | tuple):
        texts = [_part(where, part) for part in content]
        return "\n".join(texts)
    if content is None and message["role"] == "assistant":
        return ""  # all that it said is in the explanation
    return _text(where, "content", message)


def _part(where: str, part: Any) -> str:
    if not isinstance(part, Mapping) or part.get("type") != "text":
        raise TemplateError(f"{where} has the content part {part!r:.100}; only text is supported.")
    return _text(where, "text", part)


def _text(where: str, key: str, message: Mapping[str, Any]) -> str:
    value = message.get(key)
    if value is None and key == "reasoning_content":
        return ""
    if not isinstance(value, str):
        raise TemplateError(f"{where} has the {key} {value!r:.100}: give a text.")
    return value
