"""Several models in one server: loaded when they are asked for, unloaded when room is needed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamacffi.engine import AsyncEngine
from llamacffi.errors import ParameterError
from llamacffi.native.handle import live_handles
from llamacffi.server import ManyModels, ModelSpec, Settings
from llamacffi.server.memory_room import MemoryRoom, Need
from tests.chats import HI
from tests.servers import Served, eventually, serving
from tests.tiny_models import write_model

TEXT = "/v1/completions"
SMALL: dict[str, Any] = {"backend": "cpu", "n_ctx": 256, "n_parallel": 2, "n_threads": 1}
HALF_A_MINUTE = 30


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny models by name."""
    folder = tmp_path_factory.mktemp("served")
    names = {"a": "llama", "b": "gpt2", "c": "llama"}
    return {name: str(write_model(folder / f"{name}.gguf", kind)) for name, kind in names.items()}


def specs(files: dict[str, str], **more: Any) -> list[ModelSpec]:
    return [ModelSpec(name, file, **{**SMALL, **more}) for name, file in files.items()]


def states(served: Served) -> dict[str, str]:
    return {each["id"]: each["state"] for each in served.http.get("/v1/models").json()["data"]}


def ask(served: Served, model: str | None, **more: Any) -> httpx.Response:
    body = {"prompt": "x", "max_tokens": 2, "ignore_eos": True, **more}
    return served.post(TEXT, **body, **({} if model is None else {"model": model}))


def loads(served: Served, model: str, result: str = "loaded") -> float:
    return served.metric(f'llamacffi_model_loads_total{{model="{model}",result="{result}"}}')


@pytest.fixture(scope="module")
def slow(files: dict[str, str], model_path: Path) -> list[ModelSpec]:
    """The same, but b is a model that takes a minute to fill its context."""
    return specs({**files, "b": str(model_path)}, n_ctx=8192)


@contextmanager
def long_stream(served: Served, model: str) -> Iterator[None]:
    """A request that uses a model until it is left."""
    body = {"prompt": "x", "max_tokens": 6000, "ignore_eos": True, "model": model, "stream": True}
    with (
        httpx.Client(base_url=served.url, timeout=HALF_A_MINUTE) as client,
        client.stream("POST", TEXT, json=body) as stream,
    ):
        assert stream.status_code == 200
        lines = stream.iter_lines()  # kept: without it, the stream is closed
        next(lines)
        yield


class Held:
    """Loads models when it is let to."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may = threading.Event()
        self.cancelled = threading.Event()

    async def __call__(self, spec: ModelSpec) -> AsyncEngine:
        self.begun.append(spec.id)
        try:
            while not self.may.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return await spec.loading()


# -- loading --------------------------------------------------------------------------------------


def test_loaded_when_asked_for(files: dict[str, str]) -> None:
    with serving(ManyModels(specs(files))) as served:
        assert served.http.get("/health").json() == {"status": "ok"}
        assert states(served) == dict.fromkeys("abc", "unloaded")
        assert served.http.get("/v1/models/b").json()["meta"] is None
        assert ask(served, "b").json()["model"] == "b"
        assert states(served) == {"a": "unloaded", "b": "loaded", "c": "unloaded"}
        assert served.http.get("/v1/models/b").json()["meta"]["n_vocab"] > 0
        assert ask(served, None).json()["model"] == "a"
        assert served.post("/tokenize", model="c", content="x").status_code == 200
        assert served.metric('llamacffi_engine_finished_total{model="b"}') == 1
        assert served.metric('llamacffi_model_state{model="b",state="loaded"}') == 1
        assert [loads(served, name) for name in "abc"] == [1, 1, 1]


def test_first_requests_wait_for_one_load(model_path: Path, files: dict[str, str]) -> None:
    held = Held()
    models = [ModelSpec("smollm2", str(model_path), ("gpt",), **SMALL), *specs(files)]
    with serving(ManyModels(models, load=held)) as served, ThreadPoolExecutor(6) as threads:
        names = ["smollm2", "gpt", "a"] * 2
        answers = [threads.submit(ask, served, name) for name in names]
        eventually(lambda: served.metric('llamacffi_model_users{model="smollm2"}') == 4)
        assert states(served)["smollm2"] == "loading"
        held.may.set()
        found = [answer.result(HALF_A_MINUTE) for answer in answers]
        assert [answer.status_code for answer in found] == [200] * 6
        assert [answer.json()["model"] for answer in found] == ["smollm2", "smollm2", "a"] * 2
        assert sorted(held.begun) == ["a", "smollm2"]
        assert served.metric('llamacffi_model_users{model="smollm2"}') == 0


def test_a_wait_ends(files: dict[str, str]) -> None:
    held = Held()
    with serving(ManyModels(specs(files), load=held, load_timeout=0.2)) as served:
        answer = ask(served, "a")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "model_loading"
        assert int(answer.headers["retry-after"]) >= 1
        held.may.set()
        eventually(lambda: states(served)["a"] == "loaded")
        assert ask(served, "a").status_code == 200
        assert held.begun == ["a"]


def test_a_client_that_leaves_while_it_waits(files: dict[str, str]) -> None:
    with serving(ManyModels(specs(files), load=Held())) as served:
        body = json.dumps({"prompt": "x", "model": "a"}).encode()
        head = f"POST {TEXT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            eventually(lambda: served.metric('llamacffi_model_users{model="a"}') == 1)
        eventually(lambda: served.metric('llamacffi_model_users{model="a"}') == 0)


def test_loaded_from_the_start(files: dict[str, str]) -> None:
    held = Held()
    first, second, third = specs(files)
    models = [first, ModelSpec("b", second.model, preload=True, **SMALL), third]
    with serving(ManyModels(models, load=held)) as served:
        health = served.http.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "loading"})
        held.may.set()
        eventually(lambda: served.http.get("/health").status_code == 200)
        assert states(served) == {"a": "unloaded", "b": "loaded", "c": "unloaded"}


# -- unloading ------------------------------------------------------------------------------------


def test_unloaded_when_idle(model_path: Path) -> None:
    before = live_handles()
    models = ManyModels([ModelSpec("smollm2", str(model_path), **SMALL)], idle_timeout=0.3)
    with serving(models) as served:
        for count in (1, 2):
            assert ask(served, "smollm2").status_code == 200
            assert live_handles()["model"] == before.get("model", 0) + 1
            eventually(lambda: states(served)["smollm2"] == "unloaded")
            eventually(lambda n=count: loads(served, "smollm2", "unloaded") == n)
            assert live_handles() == before
        assert served.http.get("/v1/models/smollm2").json()["meta"]["n_vocab"] == 49152


def test_the_least_recently_used_makes_room(files: dict[str, str]) -> None:
    with serving(ManyModels(specs(files), models_max=2)) as served:
        for name in "abac":
            assert ask(served, name).status_code == 200
        assert states(served) == {"a": "loaded", "b": "unloaded", "c": "loaded"}
        assert ask(served, "b").status_code == 200
        assert states(served) == {"a": "unloaded", "b": "loaded", "c": "loaded"}


def test_what_is_used_stays(slow: list[ModelSpec]) -> None:
    models = ManyModels(slow, models_max=1, idle_timeout=1, load_timeout=2)
    with serving(models) as served:
        eventually(lambda: ask(served, "b").status_code == 200)
        with long_stream(served, "b"):
            answer = ask(served, "a")
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "model_loading"
            assert states(served)["b"] == "loaded"
            assert loads(served, "b") == 1
        eventually(lambda: ask(served, "a").status_code == 200)
        assert states(served)["b"] == "unloaded"


def test_one_that_waits_gets_room(slow: list[ModelSpec]) -> None:
    models = ManyModels(slow, models_max=1)
    with serving(models) as served, ThreadPoolExecutor(2) as threads:
        with long_stream(served, "b"):
            waiting = [threads.submit(ask, served, name) for name in "ac"]
            eventually(lambda: states(served)["a"] == states(served)["c"] == "loading")
            assert states(served)["b"] == "loaded"
        assert [answer.result(HALF_A_MINUTE).status_code for answer in waiting] == [200, 200]


def test_pinned_models_stay(files: dict[str, str]) -> None:
    first, *others = specs(files)
    models = [ModelSpec("a", first.model, pinned=True, **SMALL), *others]
    with serving(ManyModels(models, models_max=2, idle_timeout=0.1)) as served:
        eventually(lambda: states(served)["a"] == "loaded")
        for name in "bcb":
            assert ask(served, name).status_code == 200
        eventually(lambda: states(served)["b"] == states(served)["c"] == "unloaded")
        assert states(served)["a"] == "loaded"
        assert loads(served, "a") == 1


class Counted(MemoryRoom):
    """A machine with room for so many models, which are mapped: available is what it was."""

    def __init__(self, models: float) -> None:
        self.models = models

    def needed(self, spec: ModelSpec) -> Need:
        need = super().needed(spec)
        return dataclasses.replace(need, weights=need.total, other=0)

    def available(self, need: Need) -> int:
        return int(self.models * need.total)


# The estimate is rough: one model alone is tried in any case.
@pytest.mark.parametrize(("room", "most"), [(0.5, 1), (1.5, 1), (2.5, 2)])
def test_unloaded_where_memory_is_short(files: dict[str, str], room: float, most: int) -> None:
    same = dict.fromkeys("abc", files["a"])
    with serving(ManyModels(specs(same), memory=Counted(room))) as served:
        for number, name in enumerate("abc", 1):
            assert ask(served, name).status_code == 200
            assert list(states(served).values()).count("loaded") == min(number, most)
        assert states(served)["c"] == "loaded"


def test_memory_is_estimated(model_path: Path) -> None:
    need = MemoryRoom().needed(ModelSpec("smollm2", str(model_path), **SMALL))
    assert need.weights == pytest.approx(model_path.stat().st_size, rel=0.05)
    assert 0 < need.other < need.weights
    assert MemoryRoom().available(need) > need.total


# -- failures -------------------------------------------------------------------------------------


def test_a_model_that_cannot_be_loaded(files: dict[str, str], tmp_path: Path) -> None:
    broken, whole = tmp_path / "broken.gguf", Path(files["a"]).read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    models = ManyModels(specs({**files, "broken": str(broken)}), retry_seconds=0.5)
    with serving(models) as served, ThreadPoolExecutor(4) as threads:
        for answer in threads.map(lambda _: ask(served, "broken"), range(4)):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, "model_unavailable")
            assert "ModelFormatError" in error["message"]
            assert str(tmp_path) not in error["message"]
            assert int(answer.headers["retry-after"]) >= 1
        assert loads(served, "broken", "failed") == 1
        assert ask(served, "a").status_code == 200
        assert states(served)["broken"] == "failed"
        health = served.http.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert health.json()["failed"] == ["broken"]
        broken.write_bytes(whole)
        eventually(lambda: ask(served, "broken").status_code == 200)
        assert served.http.get("/health").json() == {"status": "ok"}


def test_a_server_whose_only_model_cannot_be_loaded(tmp_path: Path) -> None:
    spec = ModelSpec("none", str(tmp_path / "none.gguf"))
    with serving(ManyModels([spec])) as served:
        assert served.http.get("/health").json() == {"status": "ok"}
        assert ask(served, None).status_code == 503
        health = served.http.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "failed"})


def test_a_name_is_no_path_and_no_address(model_path: Path, files: dict[str, str]) -> None:
    with serving(ManyModels(specs(files))) as served:
        for name in [str(model_path), files["a"], "smollm2", "hf:x/y/z.gguf", "", "A", "a/../a"]:
            answer = ask(served, name)
            assert answer.status_code == 404, name
            assert answer.json()["error"]["code"] == "model_not_found"
        assert set(states(served).values()) == {"unloaded"}


# -- the server stops -----------------------------------------------------------------------------


def test_stopped_while_loading(model_path: Path, files: dict[str, str]) -> None:
    held = Held()
    models = ManyModels(specs(files), load=held)
    answers: list[httpx.Response] = []
    with serving(models, Settings(shutdown_timeout=0.2)) as served:
        client = threading.Thread(target=lambda: answers.append(ask(served, "a")))
        client.start()
        eventually(lambda: held.begun)
        served.server.stop()
        client.join(HALF_A_MINUTE)
    assert held.cancelled.is_set()
    assert answers[0].status_code == 503
    assert answers[0].json()["error"]["code"] == "server_stopping"


def test_stopped_in_the_middle_of_a_load(model_path: Path) -> None:
    """At any moment, nothing is left behind: the leak check counts."""
    for milliseconds in (1, 5, 20, 60):
        spec = ModelSpec("smollm2", str(model_path), preload=True, **SMALL)
        with serving(ManyModels([spec]), Settings(shutdown_timeout=0.1)):
            time.sleep(milliseconds / 1000)


def test_stopped_while_several_compute(slow: list[ModelSpec]) -> None:
    models = ManyModels(slow)
    with (
        serving(models, Settings(shutdown_timeout=0.1)) as served,
        long_stream(served, "b"),
        long_stream(served, "b"),
    ):
        assert ask(served, "a").status_code == 200
        served.server.stop()
        eventually(lambda: not served.state.models.present(), 10)


# -- embeddings -----------------------------------------------------------------------------------


def test_embeddings_beside_a_chat(model_path: Path, minilm: Path) -> None:
    models = [
        ModelSpec("smollm2", str(model_path), **SMALL),
        ModelSpec("minilm", str(minilm / "model.gguf"), ("text-embedding-3-small",), **SMALL),
    ]
    with serving(ManyModels(models)) as served, served.openai() as client:
        texts = ["A cat sits on the mat.", "A kitten on a rug.", "Shares fell on Monday."]
        result = client.embeddings.create(model="text-embedding-3-small", input=texts)
        a, b, c = (each.embedding for each in result.data)
        near, far = (sum(x * y for x, y in zip(a, other, strict=True)) for other in (b, c))
        assert near > far + 0.3
        assert sum(x * x for x in a) == pytest.approx(1, abs=1e-3)
        assert result.usage.prompt_tokens > 10
        chat = client.chat.completions.create(model="smollm2", messages=HI, max_tokens=2)
        assert chat.choices[0].message.content
        assert states(served) == {"smollm2": "loaded", "minilm": "loaded"}
        for path, body in [
            ("/v1/chat/completions", {"model": "minilm", "messages": HI}),
            (TEXT, {"model": "minilm", "prompt": "x"}),
            ("/v1/embeddings", {"model": "smollm2", "input": "x"}),
            ("/v1/rerank", {"model": "minilm", "query": "x", "documents": ["x"]}),
        ]:
            answer = served.post(path, **body)
            assert answer.status_code == 400, path


# -- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"specs": []}, "no model"),
        ({"specs": [ModelSpec("a", "x"), ModelSpec("b", "y", ("a",))]}, "^a: two models"),
        ({"models_max": 0}, "models_max=0: choose 1"),
        ({"specs": [ModelSpec("a", "x", pinned=True), ModelSpec("b", "y")], "models_max": 1},
         "models_max=1: choose 2"),
        ({"idle_timeout": -1.0}, "idle_timeout"),
        ({"load_timeout": 0.0}, "load_timeout"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_served(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        ManyModels(**{"specs": [ModelSpec("a", "x")], **change})
