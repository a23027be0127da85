"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from llamacffi.errors import ParameterError
from llamacffi.server.answering import answered, streamed
from llamacffi.server.describing import answers
from llamacffi.server.models import ServedModel
from llamacffi.server.schemas.answers import ChatCompletion
from llamacffi.server.schemas.chat import ChatRequest
from llamacffi.server.settings import Settings
from llamacffi.server.state import State

if TYPE_CHECKING:
    from llamacffi.engine import AsyncEngine

__all__ = ["add_chat"]


def add_chat(router: APIRouter, state: State) -> None:
    """Add the route."""

    @router.post(
        "/v1/chat/completions", response_model=None, responses=answers(ChatCompletion, streams=True)
    )
    async def chat_completions(asked: ChatRequest, request: Request) -> Response:
        """Answer in a conversation, in OpenAI's shapes."""
        arguments = arguments_of(asked, state.settings)

        async def ask(engine: AsyncEngine, served: ServedModel) -> Any:
            messages = _messages(asked.messages, engine.template)
            return await engine.create_chat_completion(messages, model=served.id, **arguments)

        answer = streamed if asked.stream else answered
        return await answer(state, request, asked.model, ask)


def arguments_of(asked: ChatRequest, settings: Settings) -> dict[str, Any]:
    """The arguments of `create_chat_completion` that a request stands for."""
    sampling = asked.sampling(settings.sampling)
    n = asked.n or 1
    if n > settings.choices_max:
        raise ParameterError(f"n={n}: this server gives at most {settings.choices_max} answers.")
    if asked.modalities not in (None, ["text"]):
        raise ParameterError(f'modalities: {asked.modalities}: only ["text"] is possible.')
    variables = dict(asked.chat_template_kwargs or {})
    thinking = variables.pop("enable_thinking", True)
    if not isinstance(thinking, bool):
        raise ParameterError("chat_template_kwargs: enable_thinking is true or false.")
    if asked.reasoning_effort == "none":
        thinking = False
    elif asked.reasoning_effort is not None:
        variables["reasoning_effort"] = asked.reasoning_effort
    budget = asked.reasoning_budget
    arguments = {
        "sampling": sampling,
        "temperature": sampling.temperature,  # its default in a chat is another one
        "stream": bool(asked.stream),
        "max_tokens": asked.limit(
            "max_completion_tokens", "max_tokens", "n_predict",
            default=None, tokens_max=settings.tokens_max,
        ),
        "n": n,
        "enable_thinking": thinking,
        "reasoning_budget": asked.reasoning_budget_tokens if budget is None else budget,
        "template_variables": variables,
        "response_format": asked.format(),
    }  # fmt: skip
    same = (
        "min_tokens", "stop", "ignore_eos", "tools", "tool_choice", "parallel_tool_calls",
        "functions", "function_call", "logprobs", "top_logprobs", "stream_options",
        "reasoning_budget_message",
    )  # fmt: skip
    given = {name: value for name in same if (value := getattr(asked, name)) is not None}
    return arguments | given


def _messages(messages: list[dict[str, Any]], template: Any) -> list[dict[str, Any]]:
    """The messages; a developer's are the system's for a template that knows no developer."""
    if "developer" in getattr(template, "source", ""):
        return messages
    return [
        {**message, "role": "system"} if message.get("role") == "developer" else message
        for message in messages
    ]
