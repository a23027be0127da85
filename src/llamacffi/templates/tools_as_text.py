"""Tools for models whose template knows none: offered, called and answered in plain text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llamacffi.templates.jinja import JinjaTemplate
from llamacffi.templates.messages import checked_messages, checked_tools, text_of
from llamacffi.templates.registry import find_template
from llamacffi.templates.template import (
    DEFAULT,
    AnswerParser,
    Message,
    Prompt,
    RenderOptions,
    Template,
    Tool,
)

__all__ = ["ToolsAsText"]

# The calls are those of Hermes: many models have seen them, and the engine has a parser for them.
CALLS = "chatml"
OFFER = """\
You can call these functions:
<tools>
{tools}
</tools>
To call one, answer with a JSON object between <tool_call> and </tool_call>:
<tool_call>
{{"name": "the function's name", "arguments": {{"parameter": "value"}}}}
</tool_call>"""


class ToolsAsText(Template):
    """A template with tools described in its system message.

    Args:
        template: The one that renders everything else.

    Attributes:
        template: The same.
    """

    def __init__(self, template: JinjaTemplate) -> None:
        self.name = template.name
        self.description = template.description
        self.template = template

    def __repr__(self) -> str:
        return f"ToolsAsText({self.template!r})"

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        options: RenderOptions = DEFAULT,
    ) -> Prompt:
        """See Template."""
        given, offered = checked_messages(messages), checked_tools(tools)
        if options.tool_choice == "none":
            offered = []
        plain = replace(options, tool_choice="auto")
        prompt = self.template.render(_as_text(given, offered), (), plain)
        if not offered:
            return prompt
        # Only the grammar and the parser of this one are used.
        calling = find_template(CALLS).render(
            [{"role": "user", "content": "Hi"}],
            offered,
            replace(options, bos_token="", eos_token=""),
        )
        grammar = calling.grammar
        if grammar is not None and grammar.trigger_words:
            grammar = replace(grammar, thinking=prompt.thinking)
        return replace(
            prompt,
            grammar=grammar if grammar is not None else prompt.grammar,
            spelled=(*prompt.spelled, *calling.spelled),
            parser=_one_after_the_other(prompt.parser, calling.parser),
        )


def _as_text(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    texts: list[dict[str, Any]] = []
    for message in messages:
        role, content = message["role"], text_of(message.get("content"))
        if role == "tool":
            result = f"<tool_response>\n{content}\n</tool_response>"
            if texts and texts[-1]["role"] == "user":  # many formats want the roles to alternate
                texts[-1] = {"role": "user", "content": f"{texts[-1]['content']}\n{result}"}
            else:
                texts.append({"role": "user", "content": result})
        elif message.get("tool_calls"):
            calls = [_call(call["function"]) for call in message["tool_calls"]]
            joined = "\n".join([content, *calls] if content else calls)
            kept = {key: value for key, value in message.items() if key != "tool_calls"}
            texts.append({**kept, "content": joined})
        else:
            texts.append(message)
    if tools:
        offer = OFFER.format(tools="\n".join(json.dumps(t, ensure_ascii=False) for t in tools))
        if texts[0]["role"] in ("system", "developer"):
            system = f"{text_of(texts[0].get('content'))}\n\n{offer}"
            texts[0] = {**texts[0], "content": system}
        else:
            texts.insert(0, {"role": "system", "content": offer})
    return texts


def _call(function: Mapping[str, Any]) -> str:
    name = json.dumps(function["name"], ensure_ascii=False)
    return f'<tool_call>\n{{"name": {name}, "arguments": {function["arguments"]}}}\n</tool_call>'


def _one_after_the_other(first: AnswerParser | None, second: AnswerParser | None) -> AnswerParser:
    """The first parser takes the thoughts out, the second looks for calls in what is left."""

    def parse(text: str, partial: bool) -> dict[str, Any]:
        message = {"content": text} if first is None else first(text, partial)
        content = message.get("content") or ""
        if second is None or not content:
            return {"role": "assistant", **message}
        return {"role": "assistant", **message, **second(content, partial)}

    return parse
