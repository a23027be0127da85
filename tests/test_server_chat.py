"""Chat over HTTP, asked by the clients that people use."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, SecretStr

from llamacffi import Model
from tests.chats import HI, joined
from tests.conversations import system, tool, user
from tests.servers import NAME, Served, engine_of, serving

GREEDY: dict[str, Any] = {"model": NAME, "temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def served(model: Model) -> Iterator[Served]:
    with serving(engine_of(model)) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with served.openai() as made:
        yield made


CITIES = {"type": "string", "enum": ["Paris", "Rome"]}
WEATHER: Any = tool(
    "weather",
    "The weather in a city.",
    {"type": "object", "properties": {"city": CITIES}, "required": ["city"]},
)
CALLED: Any = {"type": "function", "function": {"name": "weather"}}


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    big: bool


# -- OpenAI's client ------------------------------------------------------------------------------


def test_an_answer(client: OpenAI) -> None:
    result = client.chat.completions.create(messages=HI, **GREEDY)
    choice = result.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert result.model == NAME
    assert result.usage is not None
    assert result.usage.completion_tokens == 8
    assert result.usage.prompt_tokens > 8


def test_a_stream_says_the_same(client: OpenAI) -> None:
    whole = client.chat.completions.create(messages=HI, **GREEDY).choices[0]
    options = {"include_usage": True}
    stream = client.chat.completions.create(
        messages=HI, stream=True, stream_options=options, **GREEDY
    )
    chunks = [chunk.model_dump(exclude_unset=True) for chunk in stream]
    assert chunks[-1]["usage"]["completion_tokens"] == 8
    assert chunks[-1]["choices"] == []
    assert len({chunk["id"] for chunk in chunks}) == 1
    streamed = joined(chunks)
    assert streamed["message"]["content"] == whole.message.content
    assert streamed["finish_reason"] == whole.finish_reason


def test_the_stream_comes_as_it_is_computed(served: Served, client: OpenAI) -> None:
    asked = {**GREEDY, "max_tokens": 200}
    with client.chat.completions.create(
        messages=HI, stream=True, extra_body={"ignore_eos": True}, **asked
    ) as stream:
        chunks = iter(stream)
        texts = [next(chunks).choices[0].delta.content for _ in range(3)]
        assert served.metric("llamacffi_http_requests_open") == 2  # and the one that asks
    assert texts[0] == ""
    assert all(texts[1:])


def test_many_at_once(served: Served) -> None:
    words = ["one", "two", "three", "four", "five", "six"]  # more than there are places

    async def ask() -> list[str | None]:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client:
            calls = [
                client.chat.completions.create(
                    messages=[user(f"Say {word}")],
                    extra_body={"grammar": f'root ::= "It is {word}."'},
                    **{**GREEDY, "max_tokens": 20},
                )
                for word in words
            ]
            return [result.choices[0].message.content for result in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == [f"It is {word}." for word in words]


def test_an_asynchronous_stream(served: Served) -> None:
    async def ask() -> str:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="x") as client:
            stream = await client.chat.completions.create(messages=HI, stream=True, **GREEDY)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(ask())


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(client: OpenAI, stream: bool) -> None:
    asked = {**GREEDY, "max_tokens": 60, "tools": [WEATHER], "tool_choice": CALLED}
    asked["parallel_tool_calls"] = False
    messages = [user("What is the weather in Paris?")]
    if stream:
        chunks = client.chat.completions.create(messages=messages, stream=True, **asked)
        choice = joined(chunk.model_dump(exclude_unset=True) for chunk in chunks)
    else:
        result = client.chat.completions.create(messages=messages, **asked)
        choice = result.choices[0].model_dump()
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"] in CITIES["enum"]
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_a_parsed_answer(client: OpenAI, stream: bool) -> None:
    asked = {**GREEDY, "max_tokens": 60, "response_format": City}
    messages = [user("Name a city.")]
    if stream:
        with client.chat.completions.stream(messages=messages, **asked) as events:
            message = events.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.parse(messages=messages, **asked).choices[0].message
    assert isinstance(message.parsed, City)


def test_several_answers_with_log_probabilities(client: OpenAI) -> None:
    asked = {**GREEDY, "temperature": 1, "max_tokens": 3}
    result = client.chat.completions.create(
        messages=HI, n=2, seed=1, logprobs=True, top_logprobs=2, **asked
    )
    assert [choice.index for choice in result.choices] == [0, 1]
    for choice in result.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert [len(entry.top_logprobs) for entry in choice.logprobs.content] == [2, 2, 2]


def test_max_completion_tokens_and_stop(client: OpenAI) -> None:
    create = client.chat.completions.create
    whole = create(messages=HI, model=NAME, temperature=0, max_completion_tokens=6)
    text = whole.choices[0].message.content
    assert text is not None
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 6
    cut = create(messages=HI, model=NAME, temperature=0, max_completion_tokens=6, stop=[text[3:6]])
    assert cut.choices[0].message.content == text[:3]
    assert cut.choices[0].finish_reason == "stop"


def test_a_developer_is_the_system(client: OpenAI) -> None:
    """For a template that knows no developers, such as this model's."""
    create = client.chat.completions.create
    told = "You only speak French."
    results = [
        create(messages=[first, *HI], **GREEDY)
        for first in (system(told), {"role": "developer", "content": told})
    ]
    texts = {result.choices[0].message.content for result in results}
    prompts = {result.usage.prompt_tokens for result in results if result.usage}
    assert len(texts) == len(prompts) == 1


# -- extensions -----------------------------------------------------------------------------------


def test_extensions_of_llama_server(client: OpenAI) -> None:
    extra = {
        "top_k": 5, "min_p": 0.1, "typical_p": 0.9, "repeat_penalty": 1.1, "repeat_last_n": 32,
        "mirostat": 0, "dry_multiplier": 0.5, "xtc_probability": 0.1, "dynatemp_range": 0.1,
        "samplers": ["top_k", "temperature"], "ignore_eos": True, "min_tokens": 2,
        "cache_prompt": True, "id_slot": -1, "chat_template_kwargs": {"enable_thinking": False},
        "reasoning_budget": 0, "grammar": 'root ::= "yes" | "no"',
    }  # fmt: skip
    asked = {**GREEDY, "temperature": 0.7}
    result = client.chat.completions.create(messages=HI, extra_body=extra, **asked)
    assert result.choices[0].message.content in ("yes", "no")


def test_fields_without_effect_are_accepted(client: OpenAI) -> None:
    result = client.chat.completions.create(
        messages=HI,
        user="me",
        store=False,
        metadata={"a": "b"},
        service_tier="auto",
        parallel_tool_calls=True,
        **GREEDY,
    )
    assert result.choices


def test_a_schema_of_llama_server(served: Served) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    asked = {**GREEDY, "max_tokens": 30}
    answer = served.post("/v1/chat/completions", messages=HI, json_schema=schema, **asked)
    content = answer.json()["choices"][0]["message"]["content"]
    assert '"a"' in content


# -- LangChain ------------------------------------------------------------------------------------


@pytest.fixture
def langchain(served: Served) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{served.url}/v1",
        api_key=SecretStr("none"),
        model=NAME,
        temperature=0,
        max_completion_tokens=60,
        max_retries=0,
    )


def test_langchain(langchain: ChatOpenAI) -> None:
    answer = langchain.invoke("Hi there")
    assert answer.content
    assert answer.response_metadata["model_name"] == NAME
    pieces = [piece.content for piece in langchain.stream("Hi there")]
    assert "".join(map(str, pieces)) == answer.content


def test_langchain_with_tools_and_structure(langchain: ChatOpenAI) -> None:
    bound = langchain.bind_tools([WEATHER], tool_choice="weather", parallel_tool_calls=False)
    called = bound.invoke("The weather in Paris?")
    assert getattr(called, "tool_calls")[0]["name"] == "weather"  # noqa: B009 - only AIMessage has it
    parsed = langchain.with_structured_output(City).invoke("Name a city.")
    assert isinstance(parsed, City)
