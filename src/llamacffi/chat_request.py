"""What is asked of a model in a chat, and what that means for the prompt and for the sampling."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llamacffi.errors import ParameterError
from llamacffi.sampling.params import SamplingParams
from llamacffi.sampling.schema_source import schema_of
from llamacffi.sampling.thinking import ThinkingBudget
from llamacffi.templates.choice import token_options
from llamacffi.templates.template import Message, Prompt, Template, Tool
from llamacffi.vocab import Vocab

__all__ = ["ChatRequest", "spelled_tokens", "tool_choice_of"]


@dataclass(frozen=True)
class ChatRequest:
    """One question to a model.

    Attributes:
        messages: The conversation, in OpenAI's shape.
        tools: The tools that may be called, in OpenAI's shape.
        tool_choice: "auto", "none", "required", or the name of the one to call.
        parallel_tool_calls: Whether one answer may call several.
        schema: What the answer must follow, as `schema_of` takes it; None for free text.
        enable_thinking: Let a model that can think do so.
        reasoning_budget: Most tokens to think; 0 for none, -1 or None for any number.
        reasoning_budget_message: What the thoughts end with when the budget is used up.
        variables: More variables for the template.
    """

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    schema: Any = None
    enable_thinking: bool = True
    reasoning_budget: int | None = None
    reasoning_budget_message: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reasoning_budget is not None and self.reasoning_budget < -1:
            raise ParameterError(
                f"reasoning_budget={self.reasoning_budget}: choose 0 tokens or more, or -1 for any "
                "number."
            )

    def rendered(self, template: Template, vocab: Vocab) -> Prompt:
        """The prompt.

        Raises:
            TemplateError: The template cannot express the conversation.
        """
        options = replace(
            token_options(vocab),
            tool_choice=self.tool_choice,
            parallel_tool_calls=self.parallel_tool_calls,
            enable_thinking=self.enable_thinking and self.reasoning_budget != 0,
            variables=self.variables,
        )
        prompt = template.render(self.messages, self.tools, options)
        calling = self.tools and self.tool_choice != "none"
        if self.schema is None or not (calling or (prompt.thinking and options.enable_thinking)):
            return prompt
        from llamacffi.sampling.json_schema import schema_text  # 5 ms, and not for everyone

        # The answer follows thoughts, or may be a tool call instead: the template's own grammar
        # knows how those look.
        schema = json.loads(schema_text(schema_of(self.schema)))
        return template.render(self.messages, self.tools, replace(options, json_schema=schema))

    def held(self, prompt: Prompt, params: SamplingParams, vocab: Vocab) -> SamplingParams:
        """Sampling parameters that hold the answer to what was asked.

        Raises:
            ParameterError: A grammar of the caller's, and one that the prompt needs.
        """
        if prompt.grammar is not None:
            if params.grammar is not None:
                raise ParameterError(
                    "The grammar cannot be combined with tools: an answer that calls one has "
                    "another form. Leave out one of them."
                )
            params = replace(params, grammar=prompt.grammar)
        elif self.schema is not None:
            params = replace(params, json_schema=self.schema)
        n_tokens = self.reasoning_budget
        if n_tokens is not None and n_tokens >= 0 and prompt.thinking is not None:
            budget = ThinkingBudget(vocab, prompt.thinking, n_tokens, self.reasoning_budget_message)
            params = replace(params, processors=(*params.processors, budget))
        return params


def spelled_tokens(prompt: Prompt, vocab: Vocab) -> list[int]:
    """The tokens that an answer's text must spell out, of those that this vocabulary has."""
    found = (vocab.tokenize(t, add_special=False, parse_special=True) for t in prompt.spelled)
    return [tokens[0] for tokens in found if len(tokens) == 1]


def tool_choice_of(choice: Any, tools: Sequence[Tool]) -> str:
    """OpenAI's `tool_choice` as one word: "auto", "none", "required" or a tool's name.

    Raises:
        ParameterError: It has another shape, or there are no tools to choose from.
    """
    if choice is None:
        return "auto" if tools else "none"
    if isinstance(choice, Mapping):
        function = choice.get("function")
        choice = function.get("name") if isinstance(function, Mapping) else choice.get("name")
    if not isinstance(choice, str) or not choice:
        raise ParameterError(
            f'tool_choice={choice!r}: choose "auto", "none", "required" or {{"type": "function", '
            '"function": {"name": ...}}.'
        )
    if choice not in ("auto", "none") and not tools:
        raise ParameterError(f"tool_choice={choice!r}, but there are no tools: give `tools`.")
    return choice
