"""Thoughts in an answer: told apart, streamed, limited, and not held to what the answer is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamacffi import Llama
from tests.chats import chat, joined, message_of, stream, without_ids
from tests.conftest import N_THREADS
from tests.conversations import USER
from tests.test_chat_tools import CALLING, WEATHER_CALL, Writing, calls_of

THOUGHTS = "<think>\nI could do it.\n</think>\n\n"
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def thinker(model_path: Path, upstream: Path) -> Iterator[Llama]:
    with Llama(
        model_path,
        backend="cpu",
        n_ctx=1024,
        n_threads=N_THREADS,
        chat_format=upstream / "models/templates/Qwen-Qwen3-0.6B.jinja",
    ) as loaded:
        yield loaded


def both(llama: Llama, **parameters: Any) -> dict[str, Any]:
    whole = chat(llama, [USER], **parameters)["choices"][0]
    streamed = joined(stream(llama, [USER], **parameters))
    assert without_ids(streamed) == without_ids(whole)
    assert isinstance(whole, dict)
    return whole


def test_thoughts(thinker: Llama) -> None:
    message = both(thinker, logits_processor=Writing(thinker, f"{THOUGHTS}Hello."), max_tokens=24)
    assert message["message"]["reasoning_content"].strip() == "I could do it."
    assert message["message"]["content"].startswith("Hello.")


def test_a_budget(thinker: Llama) -> None:
    written = Writing(thinker, "<think>")
    for budget in (1, 4):
        choice = both(
            thinker,
            logits_processor=written,
            reasoning_budget=budget,
            reasoning_budget_message=" Enough!",
            max_tokens=30,
        )
        thoughts = choice["message"]["reasoning_content"]
        assert thoughts.rstrip().endswith("Enough!")
        assert len(thinker.tokenize(thoughts.encode(), add_bos=False)) <= budget + 5


@pytest.mark.parametrize("off", [{"enable_thinking": False}, {"reasoning_budget": 0}], ids=repr)
def test_no_thoughts(thinker: Llama, off: dict[str, Any]) -> None:
    assert "reasoning_content" not in both(thinker, **off)["message"]
    prompt = thinker.template.render([USER]).tokens(thinker.model.vocab)
    assert chat(thinker, [USER], **off, max_tokens=1)["usage"]["prompt_tokens"] > len(prompt)


def test_a_call_in_the_thoughts_is_none(thinker: Llama) -> None:
    """Nor does the grammar of calls hold what is thought."""
    thoughts = f"<think>\nShould I <tool_call>\nnot yet?\n</think>\n\n{WEATHER_CALL}"
    written = Writing(thinker, thoughts)
    choice = both(
        thinker,
        **{**CALLING, "max_tokens": 90},
        logits_processor=written,
        parallel_tool_calls=False,
    )
    assert "not yet?" in choice["message"]["reasoning_content"]
    assert calls_of(choice["message"]) == [("get_weather", {"city": "Oslo"})]
    assert choice["finish_reason"] == "tool_calls"


def test_thoughts_before_a_response_format(thinker: Llama) -> None:
    written = Writing(thinker, THOUGHTS)
    choice = both(thinker, response_format=FORMAT, logits_processor=written, max_tokens=50)
    assert choice["message"]["reasoning_content"].strip() == "I could do it."
    assert isinstance(json.loads(choice["message"]["content"])["ok"], bool)


def test_thoughts_that_are_cut(thinker: Llama) -> None:
    choice = both(thinker, logits_processor=Writing(thinker, THOUGHTS), max_tokens=5)
    assert choice["finish_reason"] == "length"
    assert not choice["message"]["content"]
    assert message_of({"choices": [choice]})["reasoning_content"]
