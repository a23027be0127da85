"""Sessions that compute the beginning of the next turn: the same answers, with less left to do."""

from __future__ import annotations

from typing import Any

import pytest

from llamacffi import ChatSession, Model, SamplingParams
from tests.conftest import N_THREADS

GREEDY = SamplingParams(temperature=0)
QUESTIONS = ("What is the capital of France?", "And of Italy?", "\n\nAnd of Spain?")


def session(model: Model, **settings: Any) -> ChatSession:
    return ChatSession(
        model, sampling=GREEDY, max_tokens=6, n_ctx=512, n_threads=N_THREADS, **settings
    )


def test_the_same_answers_with_less_to_compute(model: Model) -> None:
    with session(model) as plain, session(model, read_ahead=True) as ahead:
        for turn, question in enumerate(QUESTIONS):
            assert ahead.ask(question) == plain.ask(question)
            assert ahead.usage.prompt_tokens == plain.usage.prompt_tokens
            spared = ahead.usage.cached_tokens - plain.usage.cached_tokens
            assert (spared > 0) == (turn > 0)
        assert ahead.messages == plain.messages


def test_what_was_computed_ahead_is_forgotten_again(model: Model) -> None:
    with session(model) as plain, session(model, read_ahead=True) as ahead:
        for chat in (plain, ahead):
            chat.ask(QUESTIONS[0])
            chat.ask(QUESTIONS[1])
            chat.rewind()
            chat.edit(-1, "It is Paris.")
        assert ahead.ask(QUESTIONS[2]) == plain.ask(QUESTIONS[2])
        assert ahead.regenerate() == plain.regenerate()


def test_there_is_no_room_to_read_ahead(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    with session(model, read_ahead=True) as chat:
        text = "One two three four five six seven. " * 52
        answer = chat.ask(text, max_tokens=50)
        assert chat.messages[-1]["content"] == answer
        assert chat.context.memory.position_max(0) < chat.context.n_ctx
