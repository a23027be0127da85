"""`AsyncChatSession` on the real model: the answers of a `ChatSession`, awaited and cancelled."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamacffi import AsyncChatSession, ChatSession, Model, SamplingParams
from llamacffi.errors import ParameterError
from tests.conftest import N_THREADS
from tests.worker_threads import HANG_SECONDS, no_worker_left

GREEDY = SamplingParams(temperature=0)
QUESTION = "What is the capital of France?"
LONG = "Once upon a time there was a red fox. " * 150  # some 1500 tokens


def session(model: Model) -> ChatSession:
    return ChatSession(
        model, sampling=GREEDY, max_tokens=8, n_ctx=2048, n_threads=N_THREADS, system="Be brief."
    )


@pytest.fixture
def chat(model: Model) -> Iterator[AsyncChatSession]:
    made = session(model)
    yield AsyncChatSession(made)
    made.close()
    no_worker_left()


@pytest.fixture
def wanted(model: Model) -> list[str]:
    with session(model) as plain:
        return [plain.ask(QUESTION), plain.ask("And of Italy?"), plain.regenerate()]


def test_the_answers_of_a_session(chat: AsyncChatSession, wanted: list[str]) -> None:
    async def answers() -> list[str]:
        first = "".join([piece async for piece in chat.stream(QUESTION)])
        return [first, await chat.ask("And of Italy?"), await chat.regenerate()]

    assert asyncio.run(answers()) == wanted
    roles = [message["role"] for message in chat.session.messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize("method", ["ask", "stream", "regenerate", "stream_again", "save"])
def test_it_takes_the_same_arguments(method: str) -> None:
    parameters = inspect.signature(getattr(AsyncChatSession, method)).parameters
    wanted = inspect.signature(getattr(ChatSession, method)).parameters
    assert list(parameters.values())[1:] == list(wanted.values())[1:]


def test_a_cancelled_question_leaves_no_trace(chat: AsyncChatSession, wanted: list[str]) -> None:
    async def ask_and_cancel() -> str:
        task = asyncio.create_task(chat.ask(LONG))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, HANG_SECONDS)
        assert [message["role"] for message in chat.session.messages] == ["system"]
        return await chat.ask(QUESTION)

    assert asyncio.run(ask_and_cancel()) == wanted[0]


def test_a_stream_that_is_left_keeps_what_was_shown(chat: AsyncChatSession) -> None:
    async def leave() -> str:
        stream = chat.stream(QUESTION)
        first = await anext(stream)
        await stream.aclose()
        return first

    first = asyncio.run(leave())
    assert chat.session.messages[-1]["content"].startswith(first)


def test_saved_and_closed(chat: AsyncChatSession, model: Model, tmp_path: Path) -> None:
    async def save() -> None:
        async with chat:
            await chat.ask(QUESTION)
            await chat.save(tmp_path / "chat.session")

    asyncio.run(save())
    with ChatSession.load(tmp_path / "chat.session", model, n_ctx=2048) as loaded:
        assert loaded.messages == chat.session.messages


def test_errors_come_out(chat: AsyncChatSession) -> None:
    with pytest.raises(ParameterError, match="answer again"):
        asyncio.run(chat.regenerate())
