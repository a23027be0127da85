"""What the parts of llamacffi.ray do, without a cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip(
    "tests.ray_cluster", reason="needs Ray, which is large: ci/ray installs it and runs these"
)

import ray.exceptions
from ray.serve.exceptions import BackPressureError

from llamacffi.errors import BusyError, ParameterError, ReplicaDiedError
from llamacffi.ray import (
    ChatBatches,
    CompletionBatches,
    EmbeddingBatches,
    EngineOptions,
    ServeOptions,
)
from llamacffi.ray.delivery import Attempts, Delivery
from llamacffi.ray.replica import EngineReplica
from tests.ray_options import CHAT, GREEDY, encoder_options, engine_options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_threads": 0}, "n_threads=0"),
        ({"num_gpus": -1}, "num_gpus=-1"),
        ({"model_params": {"n_gpu_layer": 1}}, "model_params: n_gpu_layer cannot"),
        ({"engine_params": {"n_threads": 1}}, "engine_params: n_threads cannot"),
    ],
)
def test_options_are_checked_where_they_are_written(arguments: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        EngineOptions(**{"model": "smollm2", "n_threads": 1, **arguments})


def test_what_ray_is_told() -> None:
    engine = EngineOptions("smollm2", n_threads=3, num_gpus=0.5, engine_params={"n_parallel": 5})
    assert engine.resources == {"num_cpus": 3, "num_gpus": 0.5}
    assert ServeOptions(engine, num_replicas=2).scale == {"num_replicas": 2}
    scaled = ServeOptions(engine, autoscaling_config={"max_replicas": 7}).scale
    assert scaled == {"autoscaling_config": {"target_ongoing_requests": 5, "max_replicas": 7}}
    with pytest.raises(ParameterError, match="num_replicas=0"):
        ServeOptions(engine, num_replicas=0)


def test_only_a_death_is_worth_another_attempt() -> None:
    attempts = Attempts(2)
    with pytest.raises(BusyError, match="wait for a replica"):
        attempts.failed(BackPressureError(num_queued_requests=3, max_queued_requests=3))
    with pytest.raises(KeyError):
        attempts.failed(KeyError("x"))
    attempts.failed(ray.exceptions.ActorDiedError())
    with pytest.raises(ReplicaDiedError, match="2 replicas died"):
        attempts.failed(ray.exceptions.ActorUnavailableError("gone", None))


def test_a_delivery_drops_what_was_delivered_before() -> None:
    def parcel(name: str, index: int, end: str | None = None) -> Any:
        choice = {"index": index, "text": name, "finish_reason": end}
        return {"id": "1", "created": 2, "choices": [choice]}, [ord(name)]

    delivery = Delivery()
    for name, index in ("a0", "x1", "b0"):
        assert delivery.take(parcel(name, int(index))) is not None
    assert delivery.take(parcel("z", 1, "stop")) is not None
    delivery.again()
    assert delivery.begun == {0: [97, 98], 1: [120, 122]}
    replayed = [({**parcel(n, int(i))[0], "id": "9"}, []) for n, i in ("x1", "a0", "z1", "b0")]
    assert [delivery.take(item) for item in replayed] == [None] * 4
    assert delivery.take(parcel("y", 1)) is None  # it has ended
    assert delivery.take((replayed[0][0], [])) is None
    new = delivery.take(({**parcel("c", 0)[0], "id": "9"}, [99]))
    assert new is not None
    assert (new["id"], new["choices"][0]["text"]) == ("1", "c")
    assert delivery.begun[0] == [97, 98, 99]


def test_chats_in_a_batch_and_one_that_fails(tiny_path: Path) -> None:
    options = engine_options(tiny_path)
    batches = ChatBatches(options, arguments=GREEDY)
    column = np.empty(3, dtype=object)
    column[:] = [
        np.array([{**CHAT[0], "name": None}], dtype=object),  # as Ray Data gives them
        "Name a colour.",
        [{"role": "user", "content": "word " * 800}],
    ]
    found = batches({"messages": column, "number": np.arange(3)})
    batches._engine.engine.close()
    batches._engine.model.close()
    with options.open() as engine:
        ours = engine.create_chat_completion(CHAT, **GREEDY)
    engine.model.close()
    content = ours["choices"][0]["message"]["content"]
    assert found["answer"].tolist() == [content, content, ""]
    assert found["finish_reason"][2] == "error"
    assert "Shorten the prompt" in found["error"][2]
    assert found["number"].tolist() == [0, 1, 2]
    for wrong in ({"stream": True}, {"n": 2}):
        with pytest.raises(ParameterError, match="neither stream nor n"):
            ChatBatches(options, arguments=wrong)
    with pytest.raises(ParameterError, match="output='prompt'"):
        CompletionBatches(options, output="prompt")


def test_embeddings_in_a_batch(tmp_path: Path) -> None:
    encoder = encoder_options(tmp_path / "encoder.gguf")
    batches = EmbeddingBatches(encoder)
    texts = np.array(["one", "two", "three"], dtype=object)
    found = batches({"text": texts})["embedding"]
    batches._engine.close()
    batches._engine.model.close()
    assert found.dtype == np.float32
    with encoder.open() as engine:
        ours = engine.embed(texts.tolist(), normalize=True)
    engine.model.close()
    np.testing.assert_allclose(found, np.stack(ours), atol=1e-5)


async def interrupted(replica: EngineReplica, asked: dict[str, Any], n_read: int) -> Any:
    """The pieces that were read before a replica died, and those that another one adds."""
    delivery = Delivery()
    parcels = replica.stream("chat", asked, {})
    before = [delivery.take(await anext(parcels)) for _ in range(n_read)]
    await parcels.aclose()
    delivery.again()
    begun = {index: list(tokens) for index, tokens in delivery.begun.items()}
    after = [delivery.take(parcel) async for parcel in replica.stream("chat", asked, begun)]
    return before, [piece for piece in after if piece is not None], begun, delivery.begun


@pytest.mark.parametrize("n_read", [1, 7, 30])
def test_a_stream_goes_on_from_its_tokens(tiny_path: Path, n_read: int) -> None:
    """Without a seed: begun anew, it would be another text."""
    options = engine_options(tiny_path)
    replica = EngineReplica(options)
    asked = {
        "messages": CHAT, "stream": True, "n": 2, "max_tokens": 40, "temperature": 2.0,
        "top_k": 0, "top_p": 1.0, "min_p": 0.0,
        "logit_bias": dict.fromkeys(range(3), False), "logprobs": True, "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    before, after, begun, tokens = asyncio.run(interrupted(replica, asked, n_read))
    vocab = replica._engine.model.vocab
    for index in range(2):
        found = [c for p in before + after for c in p["choices"] if c["index"] == index]
        text = "".join(choice["delta"].get("content") or "" for choice in found)
        assert len(tokens[index]) == 40
        assert tokens[index][: len(begun.get(index, ()))] == begun.get(index, [])
        assert text == vocab.detokenize(tokens[index])
        assert found[0]["delta"]["role"] == "assistant"
        assert [choice["finish_reason"] for choice in found][-1] == "length"
        shown = [e for c in found for e in (c.get("logprobs") or {}).get("content") or ()]
        assert len(shown) == 40
    assert len({(piece["id"], piece["created"]) for piece in before + after}) == 1
    assert after[-1]["usage"]["completion_tokens"] == 80
    replica._engine.engine.close()
    replica._engine.model.close()
