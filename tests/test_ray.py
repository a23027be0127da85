"""Engines on a Ray cluster: the same results as in one process, and replicas that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import psutil
import pytest
import requests

pytest.importorskip(
    "tests.ray_cluster", reason="needs Ray, which is large: ci/ray installs it and runs these"
)

import ray.data
import ray.exceptions
from ray import serve

from llamacffi import Engine
from llamacffi.errors import (
    ContextFullError,
    ParameterError,
    UnsupportedError,
)
from llamacffi.ray import (
    AsyncEngineClient,
    CompletionBatches,
    EngineClient,
    EngineOptions,
    ServeOptions,
    application,
    http_application,
)
from llamacffi.ray.delivery import Attempts, Delivery
from tests.ray_cluster import cluster, free_port
from tests.ray_options import CHAT, GREEDY, encoder_options, engine_options

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 60.0
THINGS = ("a cat", "two kings", "the sea", "a clock", "rain", "an old map", "bread", "a star")
STORIES = [f"A story about {thing}" for thing in THINGS]

pytestmark = [
    # What Ray's own modules will drop: Ray Data reads all its settings once, old ones too.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*"),
]


@pytest.fixture(scope="module")
def options(tiny_path: Path) -> EngineOptions:
    return engine_options(tiny_path)


@pytest.fixture
def engine(options: EngineOptions) -> Iterator[Engine]:
    """The same in this process."""
    with options.open() as made:
        yield made
    made.model.close()


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def address(port: int) -> Iterator[str]:
    with cluster(port) as found:
        yield found
    left = [p for p in psutil.Process().children(recursive=True) if "ray" in " ".join(p.cmdline())]
    assert left == []


@pytest.fixture(scope="module")
def handle(address: str, options: EngineOptions) -> Iterator[Any]:
    """One replica, which becomes two as soon as there is work for them."""
    scale = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 1,
             "upscale_delay_s": 0, "downscale_delay_s": 600}  # fmt: skip
    asked = ServeOptions(options, autoscaling_config=scale)
    serve.run(http_application(asked))
    yield serve.get_deployment_handle(asked.name, "default")
    serve.delete("default")


@pytest.fixture
def client(handle: Any) -> EngineClient:
    return EngineClient(handle)


def pids(handle: Any) -> set[int]:
    ask = handle.options(method_name="pid")
    return {answer.result() for answer in [ask.remote() for _ in range(12)]}


def text_of(result: Any) -> str:
    return str(result["choices"][0]["text"])


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results differ in nothing but their name, date and what was computed before."""

    def core(result: dict[str, Any]) -> Any:
        counts = {k: v for k, v in result["usage"].items() if k.endswith("_tokens")}
        return result["choices"], counts, result["object"], result["model"]

    return core(one) == core(other)


# -- served ---------------------------------------------------------------------------------------


def test_results_are_those_of_one_process(client: EngineClient, engine: Engine) -> None:
    for prompt in ("The capital of France is", "One, two, three,"):
        arguments = {**GREEDY, "logprobs": 2}
        ours = engine.create_completion(prompt, **arguments)
        assert same(client.create_completion(prompt, **arguments), ours)
    seeded = {"temperature": 1.0, "seed": 11, "max_tokens": 12, "n": 2}
    ours = engine.create_chat_completion(CHAT, **seeded)
    assert same(client.create_chat_completion(CHAT, **seeded), ours)
    pieces = list(client.create_chat_completion(CHAT, stream=True, **seeded))
    for choice in ours["choices"]:
        found = [p["choices"][0] for p in pieces if p["choices"][0]["index"] == choice["index"]]
        text = "".join(part["delta"].get("content") or "" for part in found)
        assert text == choice["message"]["content"]


def test_mistakes_come_back_as_they_are(client: EngineClient) -> None:
    with pytest.raises(TypeError, match="max_token'"):
        client.create_completion("x", max_token=3)
    with pytest.raises(ContextFullError, match="Shorten the prompt"):
        client.create_completion("word " * 800)
    with pytest.raises(ParameterError, match="min_tokens"):
        list(client.create_completion("x", min_tokens=-1, stream=True))


async def asked_in_a_loop(handle: Any) -> tuple[str, str, int]:
    client = AsyncEngineClient(handle)
    whole = await client.create_completion(STORIES[0], **GREEDY)
    pieces = await client.create_completion(STORIES[0], stream=True, **GREEDY)
    text = "".join([text_of(piece) async for piece in pieces])
    endless = await client.create_completion(
        STORIES[1], stream=True, max_tokens=900, ignore_eos=True
    )
    n_read = 0
    async for _ in endless:
        n_read += 1
        if n_read == 3:
            break
    await endless.aclose()
    stats = handle.options(method_name="stats")
    until = time.monotonic() + PATIENCE_SECONDS
    while (await stats.remote()).n_running:
        assert time.monotonic() < until, "what nobody reads is computed still"
    assert (await stats.remote()).totals.cancelled == 1
    return text_of(whole), text, n_read


def test_asyncio(handle: Any, engine: Engine) -> None:
    import asyncio

    ours = text_of(engine.create_completion(STORIES[0], **GREEDY))
    assert asyncio.run(asked_in_a_loop(handle)) == (ours, ours, 3)


def test_http(handle: Any, port: int, engine: Engine) -> None:
    url = f"http://127.0.0.1:{port}"
    ours = engine.create_chat_completion(CHAT, **GREEDY)["choices"][0]["message"]["content"]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as api:
        messages: Any = CHAT
        asked: dict[str, Any] = {"model": "llamacffi", "messages": messages, **GREEDY}
        assert api.chat.completions.create(**asked).choices[0].message.content == ours
        with api.chat.completions.create(**asked, stream=True) as chunks:
            texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert "".join(texts) == ours
        assert [model.id for model in api.models.list()] == ["llamacffi"]
        with pytest.raises(openai.BadRequestError, match="Unknown fields: temperatur"):
            api.completions.create(model="", prompt="x", extra_body={"temperatur": 1})
        with pytest.raises(openai.BadRequestError, match="min_tokens"):
            api.completions.create(model="", prompt="x", stream=True, extra_body={"min_tokens": -1})
    refused = [
        requests.post(f"{url}/v1/completions", data=b"{", timeout=20),
        requests.post(f"{url}/v1/completions", json=[1], timeout=20),
        requests.post(f"{url}/v1/completions", json={"prompt": "x", "n": 100}, timeout=20),
        requests.post(f"{url}/v1/completions", json={"prompt": "x", "grammar": "f"}, timeout=20),
        requests.get(f"{url}/v1/completions", timeout=20),
        requests.get(f"{url}/nothing", timeout=20),
    ]
    assert [answer.status_code for answer in refused] == [400, 400, 400, 400, 405, 404]
    assert all(answer.json()["error"]["message"] for answer in refused)


def slow() -> Any:
    """A logits processor that changes nothing, and is sent as it is: replicas have no tests."""

    def slowly(tokens: Any, logits: Any) -> None:
        time.sleep(0.005)

    return slowly


def test_there_are_as_many_replicas_as_the_work_needs(handle: Any, client: EngineClient) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    work = {"max_tokens": 30, "ignore_eos": True, "logits_processor": slow()}
    with ThreadPoolExecutor(6) as pool:
        while len(pids(handle)) < 2:
            assert time.monotonic() < until, "there is one replica still"
            list(pool.map(lambda p: client.create_completion(p, **work), STORIES[:6]))


def test_a_killed_replica_loses_no_request(
    handle: Any, client: EngineClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = min(pids(handle))  # of two, where the test before has run
    n_tokens, n_before = 160, 4
    asked: list[dict[str, Any]] = [
        {"prompt": story, "max_tokens": n_tokens, "temperature": 0.8 * (number % 2), "seed": number,
         "stream": number < 5, "ignore_eos": True}
        for number, story in enumerate(STORIES)
    ]  # fmt: skip
    ours = [text_of(engine.create_completion(**{**one, "stream": False})) for one in asked]
    failures: list[str] = []
    resumed: list[int] = []
    failed, again = Attempts.failed, Delivery.again

    def noted_failure(self: Attempts, error: BaseException) -> None:
        failures.append(type(error).__name__)
        failed(self, error)

    def noted_again(self: Delivery) -> None:
        resumed.append(len(self.begun.get(0, ())))
        again(self)

    monkeypatch.setattr(Attempts, "failed", noted_failure)
    monkeypatch.setattr(Delivery, "again", noted_again)
    under_way = threading.Semaphore(0)

    def answer(one: dict[str, Any]) -> str:
        result = client.create_completion(**one, logits_processor=slow())
        if not one["stream"]:
            return text_of(result)
        texts = []
        for piece in result:
            texts.append(text_of(piece))
            if len(texts) == n_before:
                under_way.release()
        return "".join(texts)

    with ThreadPoolExecutor(len(asked)) as pool:
        answers = [pool.submit(answer, one) for one in asked]
        for one in asked:
            if one["stream"]:
                assert under_way.acquire(timeout=PATIENCE_SECONDS)
        assert not any(answer.done() for answer in answers)
        os.kill(victim, signal.SIGKILL)
        texts = [answer.result(timeout=PATIENCE_SECONDS) for answer in answers]
    assert texts == ours
    assert failures, "no request was on the replica that was killed"
    assert resumed, "no stream was"
    assert all(n >= n_before for n in resumed)
    assert victim not in pids(handle)


def test_embeddings_are_served(address: str, tmp_path: Path) -> None:
    encoder = encoder_options(tmp_path / "encoder.gguf")
    client = EngineClient(
        serve.run(application(ServeOptions(encoder)), name="vectors", route_prefix=None)
    )
    found = client.create_embedding(["one", "two"])
    with encoder.open() as engine:
        ours = engine.create_embedding(["one", "two"])
    engine.model.close()
    ours_and_theirs = [[e["embedding"] for e in result["data"]] for result in (ours, found)]
    np.testing.assert_allclose(*ours_and_theirs, atol=1e-5)
    with pytest.raises(UnsupportedError, match="makes embeddings, not text"):
        client.create_completion("x")
    serve.delete("vectors")


# -- batches --------------------------------------------------------------------------------------


def test_a_data_set_gets_the_same_answers(
    address: str, options: EngineOptions, engine: Engine
) -> None:
    rows = [{"number": n, "prompt": f"{n} and {n} is"} for n in range(40)]
    arguments = {"max_tokens": 4, "temperature": 0.0}
    answered = ray.data.from_items(rows).map_batches(
        CompletionBatches,
        fn_constructor_args=(options,),
        fn_constructor_kwargs={"arguments": arguments},
        batch_size=20,
        concurrency=1,
        **options.resources,
    )
    found = {row["number"]: row for row in answered.take_all()}
    assert sorted(found) == list(range(40))
    for row in rows:
        ours = engine.create_completion(row["prompt"], **arguments)
        theirs = found[row["number"]]
        assert theirs["completion"] == text_of(ours)
        assert theirs["finish_reason"] == ours["choices"][0]["finish_reason"]
        assert theirs["prompt_tokens"] == ours["usage"]["prompt_tokens"]
        assert theirs["completion_tokens"] == ours["usage"]["completion_tokens"]
        assert theirs["error"] == ""


@pytest.mark.parametrize("example", ["ray_serve.py", "ray_batch.py"])
def test_examples_run(address: str, example: str, model_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example), str(model_path)],
        env=os.environ | {"RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.strip()
