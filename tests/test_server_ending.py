"""What ends before its time: clients that leave, servers that stop, models that do not load."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from llamacffi import Model
from llamacffi.engine import AsyncEngine
from llamacffi.native.handle import live_handles
from llamacffi.server import OneModel, Settings, create_app
from llamacffi.server.ending import first_of
from tests.completions import PROMPT
from tests.servers import NAME, Served, engine_of, eventually, server_process, serving

PATH = "/v1/completions"
LONG: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 6000, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def engine(model: Model) -> AsyncEngine:
    return engine_of(model, n_ctx=8192)


@pytest.fixture
def served(engine: AsyncEngine) -> Iterator[Served]:
    with serving(engine, Settings(stall_timeout=0.5, shutdown_timeout=1)) as server:
        yield server


def idle(engine: AsyncEngine) -> bool:
    stats = engine.stats()
    return not stats.n_running and not stats.n_waiting


# -- clients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompts", [[PROMPT], [PROMPT, "One"]], ids=["one", "two"])
def test_a_client_that_leaves_frees_its_places(
    served: Served, engine: AsyncEngine, stream: bool, prompts: list[str]
) -> None:
    body = json.dumps({**LONG, "prompt": prompts, "stream": stream}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        eventually(lambda: engine.stats().totals.completion_tokens > 5)
    eventually(lambda: idle(engine), 2)
    totals = engine.stats().totals
    assert (totals.cancelled, totals.finished) == (len(prompts), 0)
    eventually(lambda: served.metric('llamacffi_streams_ended_early_total{reason="client"}') == 1)
    assert served.post(PATH, prompt=PROMPT, max_tokens=1).status_code == 200


def test_a_client_that_does_not_read_is_left(engine: AsyncEngine) -> None:
    """Below HTTP, as the kernel's buffers would take megabytes before a write waits."""
    app = create_app(engine, Settings(stall_timeout=0.2))
    body = json.dumps({**LONG, "stream": True}).encode()
    sent: list[Any] = []
    request = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        for message in request:
            return message
        return await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 5:
            await asyncio.sleep(60)

    async def ask() -> None:
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers}
        async with app.router.lifespan_context(app):
            await app({**scope, "query_string": b"", "client": None}, receive, send)
            assert engine.stats().n_running <= 1
            await asyncio.to_thread(eventually, lambda: idle(engine))
            assert engine.stats().totals.cancelled == 1

    asyncio.run(asyncio.wait_for(ask(), 20))
    assert len(sent) == 6


def test_a_slow_client_gets_all(served: Served) -> None:
    asked = {**LONG, "max_tokens": 30, "stream": True}
    with served.http.stream("POST", PATH, json=asked) as stream:
        lines = []
        for line in stream.iter_lines():
            lines.append(line)
            time.sleep(0.01)
    assert lines[-2] == "data: [DONE]"


# -- the server stops -----------------------------------------------------------------------------


def test_running_requests_are_finished(engine: AsyncEngine) -> None:
    results: list[httpx.Response] = []
    with serving(engine, Settings(shutdown_timeout=20)) as served:
        asked = {**LONG, "max_tokens": 60}
        ask = threading.Thread(target=lambda: results.append(served.post(PATH, **asked)))
        ask.start()
        eventually(lambda: engine.stats().n_running)
        served.server.stop()
        ask.join()
    assert results[0].status_code == 200
    assert results[0].json()["usage"]["completion_tokens"] == 60


@pytest.mark.alone  # it measures how long the server takes to stop
def test_what_takes_too_long_is_told_so(served: Served) -> None:
    whole: list[httpx.Response] = []
    with httpx.Client(base_url=served.url, timeout=60) as client:
        ask = threading.Thread(target=lambda: whole.append(client.post(PATH, json=LONG)))
        ask.start()
        with served.http.stream("POST", PATH, json={**LONG, "stream": True}) as stream:
            lines = stream.iter_lines()
            next(lines)
            begun = time.monotonic()
            served.server.stop()
            *_, last, _ = lines
        ask.join()
    assert time.monotonic() - begun < 5
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "server_stopping"
    assert whole[0].status_code == 503
    assert whole[0].json()["error"]["code"] == "server_stopping"


def test_a_stopping_server_takes_nothing_more(served: Served) -> None:
    served.state.stopping = True
    assert served.http.get("/health").json() == {"status": "stopping"}
    assert served.http.get("/health").status_code == 503
    assert served.post(PATH, prompt="x").status_code == 503


# -- models ---------------------------------------------------------------------------------------


def test_a_model_that_is_being_loaded(engine: AsyncEngine) -> None:
    loaded = threading.Event()

    async def load() -> AsyncEngine:
        while not loaded.is_set():
            await asyncio.sleep(0.01)
        return engine

    with serving(OneModel(load, NAME)) as served:
        health = served.http.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "loading"})
        answer = served.post(PATH, prompt="x")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "model_loading"
        assert int(answer.headers["retry-after"]) >= 1
        loaded.set()
        eventually(lambda: served.http.get("/health").status_code == 200)
        assert served.post(PATH, prompt="x", max_tokens=1).status_code == 200


def test_a_server_that_stops_while_its_model_is_loaded() -> None:
    cancelled = threading.Event()

    async def load() -> AsyncEngine:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    with serving(OneModel(load, NAME)):
        pass
    assert cancelled.is_set()


def test_mounted_in_another_application(engine: AsyncEngine) -> None:
    app = create_app(engine, Settings(api_keys=("key",)), name="mine")
    outer = FastAPI()
    outer.mount("/llm", app)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(outer)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x/llm") as client,
        ):
            answers = [await client.get("/health"), await client.get("/v1/models")]
            client.headers["Authorization"] = "Bearer key"
            body = {"prompt": PROMPT, "max_tokens": 2}
            return [*answers, await client.post(PATH, json=body), await client.get("/metrics")]

    health, models, answer, metrics = asyncio.run(ask())
    assert [health.status_code, models.status_code] == [200, 401]
    assert answer.json()["model"] == "mine"
    assert f'route="{PATH}"' in metrics.text
    assert engine.engine.closed


# -- awaiting -------------------------------------------------------------------------------------


async def _value(value: int, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return value


async def _failing(seconds: float) -> None:
    await asyncio.sleep(seconds)
    raise LookupError


def test_what_ends_first_counts() -> None:
    assert asyncio.run(first_of(_value(1, 0.01), _failing(5), _failing(5))) == 1
    with pytest.raises(LookupError):
        asyncio.run(first_of(_value(1, 5), _failing(5), _failing(0.01)))


# -- the command ----------------------------------------------------------------------------------


def test_the_command(model_path: Path) -> None:
    options = ["--n-ctx", "512", "--n-threads", "1", "--alias", "gpt", "--temp", "0"]
    with server_process(str(model_path), *options, LLAMACFFI_API_KEYS="a-key, other") as served:
        headers = {"Authorization": "Bearer other"}
        with httpx.Client(base_url=served.url, headers=headers, timeout=60) as client:
            eventually(lambda: client.get("/health").status_code == 200)
            assert httpx.get(f"{served.url}/v1/models").status_code == 401
            assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403
            assert client.get("/v1/models").json()["data"][0]["id"] == "gpt"
            body = {"model": model_path.stem, "prompt": PROMPT, "max_tokens": 3}
            texts = {client.post(PATH, json=body).json()["choices"][0]["text"] for _ in range(2)}
            assert len(texts) == 1
            with client.stream("POST", PATH, json={**LONG, "max_tokens": 20, "stream": True}) as s:
                lines = s.iter_lines()
                next(lines)
                served.process.terminate()
                assert [line for line in lines if line][-1] == "data: [DONE]"
        assert served.process.wait(20) == 0


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with server_process(str(broken)) as served:
        assert served.process.stderr is not None
        assert "broken.gguf" in served.process.stderr.read()
        assert served.process.wait(20) == 1


def test_the_command_says_what_is_not_installed() -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from llamacffi.cli import main; main(['serve', 'smollm2'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "uvicorn" in done.stderr
    assert "pip install 'llamacffi[server]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_file(tmp_path: Path, model_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# ours\n one \n\ntwo\n", encoding="utf-8")
    options = ["--api-key-file", str(keys), "--api-key", "three", "--n-ctx", "256"]
    with server_process(str(model_path), *options, LLAMACFFI_API_KEYS="") as served:
        for key, status in [("one", 200), ("two", 200), ("three", 200), ("ours", 401), ("", 401)]:
            headers = {"Authorization": f"Bearer{key and ' '}{key}"}
            assert httpx.get(f"{served.url}/v1/models", headers=headers).status_code == status
        assert served.terminate() == 0


def test_logs_keep_no_answer(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """A log record of a client that left, and is kept, holds nothing native."""
    caplog.set_level(logging.INFO, "llamacffi.server")
    before = live_handles()
    with served.http.stream("POST", PATH, json={**LONG, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
    eventually(lambda: any("ended early" in message for message in caplog.messages))

    def is_as_before() -> bool:
        gc.collect()
        return live_handles() == before

    eventually(is_as_before)
