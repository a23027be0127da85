"""Asking for chat completions in tests, checking their shape, and joining their streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llamacffi import Llama
from tests.conversations import WEATHER, user

__all__ = ["GREEDY", "HI", "chat", "chunks_of", "joined", "joined_deltas", "message_of", "stream"]

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}
HI = [user("Hi there")]
CITY = {"type": "string", "maxLength": 12}
CALLED = {"type": "function", "function": {"name": WEATHER["function"]["name"]}}


def chat(llama: Llama, messages: Any = HI, **parameters: Any) -> dict[str, Any]:
    """A whole result, which is one of OpenAI's."""
    result = llama.create_chat_completion(messages, **{**GREEDY, **parameters})
    assert isinstance(result, dict)
    ChatCompletion.model_validate(result, strict=True)
    return result


def stream(llama: Llama, messages: Any = HI, **parameters: Any) -> Iterator[dict[str, Any]]:
    """The chunks of a stream, each of which is one of OpenAI's."""
    result = llama.create_chat_completion(messages, **{**GREEDY, **parameters}, stream=True)
    assert not isinstance(result, dict)
    for chunk in result:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        assert isinstance(chunk, dict)
        yield chunk


def message_of(result: Mapping[str, Any], index: int = 0) -> dict[str, Any]:
    message = result["choices"][index]["message"]
    assert isinstance(message, dict)
    return message


def chunks_of(chunks: Iterable[dict[str, Any]], index: int = 0) -> list[dict[str, Any]]:
    """The pieces of one choice."""
    return [piece for chunk in chunks for piece in chunk["choices"] if piece["index"] == index]


def joined_deltas(deltas: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A message out of a stream's deltas, the way OpenAI's clients do it."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        assert set(delta) <= {"role", "content", "reasoning_content", "tool_calls"}
        for key in ("content", "reasoning_content"):
            if key in delta:
                message[key] = message.get(key, "") + delta[key]
        for piece in delta.get("tool_calls", ()):
            if piece["index"] == len(calls):
                assert piece["id"]
                assert piece["function"]["name"]
                calls.append({"id": piece["id"], "type": piece["type"], "function": {}})
                calls[-1]["function"] = {**piece["function"]}
            else:
                assert set(piece) == {"index", "function"}
                assert set(piece["function"]) == {"arguments"}
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    if calls:
        message["content"] = message["content"] or None
        message["tool_calls"] = calls
    return message


def joined(chunks: Iterable[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """A choice out of a stream: as the whole result has it."""
    pieces = chunks_of(chunks, index)
    assert pieces[0]["delta"] == {"role": "assistant", "content": ""}
    assert not any("role" in piece["delta"] for piece in pieces[1:])
    assert [piece["finish_reason"] for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    entries = [entry for piece in pieces for entry in (piece["logprobs"] or {}).get("content", ())]
    return {
        "index": index,
        "message": joined_deltas(piece["delta"] for piece in pieces),
        "logprobs": {"content": entries, "refusal": None} if entries else None,
        "finish_reason": pieces[-1]["finish_reason"],
    }


def without_ids(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice to be compared: the ids of calls are random."""
    message = dict(choice["message"])
    if "tool_calls" in message:
        message["tool_calls"] = [{**call, "id": "x"} for call in message["tool_calls"]]
    return {**choice, "message": message}
