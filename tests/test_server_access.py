"""Who may use a server: keys, hosts, origins, and how much at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacffi import Model
from llamacffi.errors import ParameterError
from llamacffi.server import Settings
from llamacffi.server.auth import Keys, host_of
from tests.chats import HI
from tests.servers import NAME, Served, engine_of, eventually, serving

KEYS = ("first-key", "second-key")
ORIGIN = "https://app.example"
LONG: dict[str, Any] = {"max_tokens": 4000, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def guarded(model: Model) -> Iterator[Served]:
    settings = Settings(
        api_keys=KEYS,
        per_key_max=1,
        cors_origins=(ORIGIN,),
        allowed_hosts=("127.0.0.1", "llm.example"),
    )
    with serving(engine_of(model, n_ctx=8192), settings, key="second-key") as server:
        yield server


def status_with(served: Served, path: str = "/v1/models", **headers: str) -> int:
    return httpx.get(served.url + path, headers=headers).status_code


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_right_keys(guarded: Served, key: str, scheme: str) -> None:
    assert status_with(guarded, Authorization=f"{scheme} {key}") == 200


@pytest.mark.parametrize(
    "header",
    ["Bearer third-key", "Bearer first-ke", "Bearer first-keyy", "Bearer",
     "Basic first-key", "first-key", "", "Bearer FIRST-KEY", "Bearer first-key,second-key"],
)  # fmt: skip
def test_wrong_keys(guarded: Served, header: str) -> None:
    answer = httpx.get(f"{guarded.url}/v1/models", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/rerank",
     "/v1/models", "/v1/models/x", "/tokenize", "/detokenize", "/metrics", "/nothing", "//health",
     "/health/", "/health/../metrics", "/docs/x"],
)  # fmt: skip
def test_everything_needs_a_key(guarded: Served, path: str) -> None:
    assert status_with(guarded, path) == 401
    assert httpx.post(guarded.url + path, content=b"{").status_code == 401


@pytest.mark.parametrize("path", ["/health", "/docs", "/openapi.json"])
def test_but_for_these(guarded: Served, path: str) -> None:
    assert status_with(guarded, path) == 200


def test_openai_says_that_the_key_is_wrong(guarded: Served) -> None:
    with (
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="no", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


@given(st.lists(st.binary(min_size=1, max_size=8).map(bytes.hex), unique=True), st.binary())
def test_only_a_whole_key_is_found(keys: list[str], given: bytes) -> None:
    known = Keys(keys)
    assert [known.find(key.encode()) for key in keys] == list(range(len(keys)))
    if given.decode("latin-1") not in keys:
        assert known.find(given) is None


@pytest.mark.parametrize("key", ["", " padded", "größe"])
def test_keys_that_cannot_be_sent(key: str) -> None:
    with pytest.raises(ParameterError):
        Settings(api_keys=(key,))


def test_keys_are_not_shown() -> None:
    assert "first-key" not in repr(Settings(api_keys=KEYS))


# -- hosts and origins ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("LLM.example:8080", 200), ("evil.example", 403), ("", 403),
     ("127.0.0.1.evil.example", 403), ("[::1]:80", 403)],
)  # fmt: skip
def test_hosts(guarded: Served, host: str, status: int) -> None:
    """A page whose name resolves to this machine could ask otherwise, past the browser's rules."""
    assert status_with(guarded, "/health", Host=host) == status


@pytest.mark.parametrize(
    ("header", "name"),
    [("A:1", "a"), ("a.b", "a.b"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("", ""), (":80", "")],
)
def test_names_in_headers(header: str, name: str) -> None:
    assert host_of(header) == name


def test_cors(guarded: Served) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    path = f"{guarded.url}/v1/chat/completions"
    allowed = httpx.options(path, headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    refused = httpx.options(path, headers={**asked, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers
    # A page has to be able to read what was wrong.
    wrong = httpx.get(f"{guarded.url}/v1/models", headers={"Origin": ORIGIN})
    assert wrong.status_code == 401
    assert wrong.headers["access-control-allow-origin"] == ORIGIN


# -- limits ---------------------------------------------------------------------------------------


def test_one_request_at_a_time_with_a_key(guarded: Served) -> None:
    asked = {"model": NAME, "messages": HI, "stream": True, **LONG}
    with guarded.http.stream("POST", "/v1/chat/completions", json=asked) as stream:
        lines = stream.iter_lines()  # httpx closes the stream when nobody has this any more
        next(lines)
        second = guarded.post("/tokenize", content="x")
        assert second.status_code == 429
        assert second.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(second.headers["retry-after"]) >= 1
        other = {"Authorization": "Bearer first-key"}
        answer = httpx.post(f"{guarded.url}/tokenize", json={"content": "x"}, headers=other)
        assert answer.status_code == 200
        assert guarded.http.get("/v1/models").status_code == 200
    eventually(lambda: guarded.post("/tokenize", content="x").status_code == 200)


def test_the_operators_limit_of_tokens(model: Model) -> None:
    with serving(engine_of(model), Settings(tokens_max=6)) as served:
        for path, body in (
            ("/v1/completions", {"prompt": "x"}),
            ("/v1/chat/completions", {"messages": HI}),
            ("/v1/chat/completions", {"messages": HI, "max_tokens": -1}),
        ):
            usage = served.post(path, ignore_eos=True, **body).json()["usage"]
            assert usage["completion_tokens"] == 6


def test_a_full_queue(model: Model) -> None:
    engine = engine_of(model, n_parallel=1, n_queue_max=1, n_ctx=8192)
    asked = {"prompt": "x", "stream": True, **LONG}
    with serving(engine) as served:

        def read() -> None:
            with httpx.stream(
                "POST", f"{served.url}/v1/completions", json=asked, timeout=60
            ) as stream:
                for _ in stream.iter_bytes():
                    if done.is_set():
                        return

        done = threading.Event()
        readers = [threading.Thread(target=read) for _ in range(2)]
        try:
            for number, reader in enumerate(readers):
                reader.start()
                eventually(lambda n=number: sum(_places(engine)) == n + 1)
            answer = served.post("/v1/completions", prompt="x")
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "overloaded"
            assert int(answer.headers["retry-after"]) >= 1
            health = served.http.get("/health")
            assert (health.status_code, health.json()["status"]) == (200, "degraded")
        finally:
            done.set()
            for reader in readers:
                reader.join()
        eventually(lambda: served.http.get("/health").json() == {"status": "ok"})


def _places(engine: Any) -> tuple[int, int]:
    stats = engine.stats()
    return stats.n_running, stats.n_waiting
