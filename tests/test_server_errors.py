"""Mistakes over HTTP: their status, and OpenAI's shape of errors."""

from __future__ import annotations

import asyncio
import json
import socket
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamacffi import Model
from llamacffi.errors import BusyError, ClosedError
from llamacffi.server import Models, ServedModel, Settings, create_app
from llamacffi.server.errors import api_error
from tests.chats import HI
from tests.servers import NAME, Served, engine_of, serving

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
LIMITS = Settings(body_bytes_max=200_000, tokens_max=500, choices_max=4, inputs_max=3)


@pytest.fixture(scope="module")
def served(model: Model) -> Iterator[Served]:
    with serving(engine_of(model, n_ctx=512), LIMITS) as server:
        yield server


def image(url: str) -> list[Any]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def reply_format(schema: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        (TEXT, {}, "prompt", None),
        (TEXT, {"prompt": ""}, None, None),
        (TEXT, {"prompt": []}, None, None),
        (TEXT, {"prompt": {"a": 1}}, "prompt", None),
        (TEXT, {"prompt": [999_999]}, None, None),
        (TEXT, {"prompt": [-1]}, "prompt", None),
        (TEXT, {"prompt": "x " * 2000}, None, "context_length_exceeded"),
        (TEXT, {"prompt": ["x"] * 5}, "prompt", None),
        (TEXT, {"prompt": "x", "n": 0}, "n", None),
        (TEXT, {"prompt": "x", "n": 5}, "prompt", None),
        (TEXT, {"prompt": "x", "best_of": 3, "n": 2, "stream": True}, None, None),
        (TEXT, {"prompt": "x", "max_tokens": 501}, "max_tokens", None),
        (TEXT, {"prompt": "x", "max_tokens": 0}, "max_tokens", None),
        (CHAT, {"messages": HI, "max_tokens": 0}, "max_tokens", None),
        (TEXT, {"prompt": "x", "surprise": 1}, "surprise", "unknown_parameter"),
        (TEXT, {"prompt": "x", "temperature": -1}, "temperature", None),
        (TEXT, {"prompt": "x", "temperature": "hot"}, "temperature", None),
        (TEXT, {"prompt": "x", "top_k": 2**40}, "top_k", None),
        (TEXT, {"prompt": "x", "mirostat": 3}, "mirostat", None),
        (TEXT, {"prompt": "x", "repeat_penalty": 0}, "repeat_penalty", None),
        (TEXT, {"prompt": "x", "samplers": ["nothing"]}, "samplers", None),
        (TEXT, {"prompt": "x", "stop": [""]}, "stop", None),
        (TEXT, {"prompt": "x", "logit_bias": {"word": 1}}, "logit_bias", None),
        (TEXT, {"prompt": "x", "logit_bias": {"9": True}}, "logit_bias", None),
        (TEXT, {"prompt": "x", "logit_bias": {"999999": 1}}, None, None),
        (TEXT, {"prompt": "x", "grammar": "root ::= ("}, "grammar", "invalid_grammar"),
        (TEXT, {"prompt": "x", "suffix": "y"}, None, "unsupported"),
        (TEXT, {"prompt": "x", "response_format": {"type": "xml"}}, "response_format", None),
        (TEXT, {"prompt": "x", "response_format": reply_format({"type": "x"})},
         "response_format", "invalid_schema"),
        (TEXT, {"prompt": "x", "json_schema": {}, "response_format": {}}, "json_schema", None),
        (CHAT, {"messages": []}, "messages", None),
        (CHAT, {"messages": "Hi"}, "messages", None),
        (CHAT, {"messages": [{"content": "Hi"}]}, "messages", None),
        (CHAT, {"messages": HI, "n": 5}, "n", None),
        (CHAT, {"messages": HI, "max_completion_tokens": 501}, "max_completion_tokens", None),
        (CHAT, {"messages": HI, "top_logprobs": 2}, "top_logprobs", None),
        (CHAT, {"messages": HI, "modalities": ["audio"]}, "modalities", None),
        (CHAT, {"messages": HI, "tool_choice": "required"}, "tool_choice", None),
        (CHAT, {"messages": HI, "tools": [{"type": "function"}]}, "tools", None),
        (CHAT, {"messages": HI, "chat_template_kwargs": {"enable_thinking": "no"}},
         "chat_template_kwargs", None),
        (CHAT, {"messages": HI, "chat_template": "{{ messages }}"},
         "chat_template", "unknown_parameter"),
        (CHAT, {"messages": image("http://127.0.0.1:1/secret.png")}, "messages", None),
        (CHAT, {"messages": image("file:///etc/passwd")}, "messages", None),
        ("/v1/embeddings", {"input": ["x"] * 4}, "input", None),
        ("/v1/rerank", {"query": "x", "documents": []}, "documents", None),
        ("/tokenize", {"content": 3}, "content", None),
        ("/detokenize", {"tokens": [999_999]}, None, None),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else None,
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_mistakes(
    served: Served, path: str, body: dict[str, Any], param: str | None, code: str | None,
    stream: bool,
) -> None:  # fmt: skip
    if stream and path in (CHAT, TEXT):
        body = {**body, "stream": True}
    answer = served.post(path, **body)
    error = answer.json()["error"]
    assert answer.status_code == 400, error
    assert (error["param"], error["code"]) == (param, code), error
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) > 10


@pytest.mark.parametrize(
    "grammar", ["/etc/passwd", "file:///etc/passwd", "grammar.gbnf", "../../etc/passwd"]
)
def test_a_grammar_is_no_path(served: Served, grammar: str) -> None:
    answer = served.post(TEXT, prompt="x", grammar=grammar)
    message = answer.json()["error"]["message"]
    assert answer.status_code == 400
    assert "root:x" not in message
    assert "line 1, column" in message or "rule" in message


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"{", "no JSON"),
        (b'{"prompt": "\\ud800"}', "no JSON"),
        (b'{"prompt": "\xff"}', "no JSON"),
        (b'{"prompt": "x", "temperature": NaN}', "no JSON"),
        (b'{"prompt": ' + b"[" * 100_000, "no JSON"),
        (b"[]", "JSON object"),
        (b'"text"', "JSON object"),
        (b"", "JSON object"),
    ],
    ids=range(8),
)
def test_bodies_that_are_no_request(served: Served, raw: bytes, words: str) -> None:
    answer = served.http.post(TEXT, content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


MANY = 500_000


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ["a", 1] * MANY},
        {"prompt": [[1.5]] * MANY},
        {"prompt": "x", "stop": [1] * MANY},
        {"prompt": "x", "logit_bias": {str(number): "x" for number in range(MANY // 2)}},
        {"prompt": "x", "logit_bias": [1] * MANY},
        dict.fromkeys(map(str, range(MANY // 2)), 1),
    ],
    ids=range(6),
)
def test_a_million_mistakes_cost_no_more_than_one(model: Model, body: dict[str, Any]) -> None:
    app = create_app(engine_of(model))
    raw = json.dumps(body).encode()

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):
            headers = {"Content-Type": "application/json"}
            return await client.post(TEXT, content=raw, headers=headers)

    tracemalloc.start()
    try:
        answer = asyncio.run(ask())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 400
    assert len(answer.content) < 2000
    assert peak < 150e6


def test_a_form_of_a_foreign_page_is_refused(served: Served) -> None:
    """A browser sends this without asking the server first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        body = json.dumps({"prompt": "x"}).encode()
        answer = served.http.post(TEXT, content=body, headers={"Content-Type": kind})
        assert answer.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/v1/nothing", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("GET", "/v1/models/nothing", 404, "model_not_found"),
    ],
)
def test_wrong_addresses(served: Served, method: str, path: str, status: int, code: str) -> None:
    answer = served.http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code


def test_the_only_model_answers_to_any_name(served: Served) -> None:
    with served.openai() as client:
        answer = client.chat.completions.create(model="gpt-4", messages=HI, max_tokens=1)  # type: ignore[arg-type]  # plain dictionaries
        assert answer.model == NAME
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


# -- sizes ----------------------------------------------------------------------------------------


def test_a_large_body(served: Served) -> None:
    large = json.dumps({"prompt": "x" * 300_000}).encode()
    announced = served.http.post(TEXT, content=large, headers={"Content-Type": "application/json"})

    def pieces() -> Iterator[bytes]:
        yield large[:150_000]
        yield large[150_000:]

    chunked = served.http.post(TEXT, content=pieces(), headers={"Content-Type": "application/json"})
    for answer in (announced, chunked):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


def test_a_body_that_does_not_come(model: Model) -> None:
    with serving(engine_of(model), Settings(body_timeout=0.3)) as served:
        head = "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 408 ")
    assert '"request_timeout"' in answer


# -- what goes wrong later ------------------------------------------------------------------------


def test_an_error_in_mid_stream(model: Model) -> None:
    limits = Settings(timeout=0.5)
    asked = {"prompt": "x", "max_tokens": 2000, "ignore_eos": True}
    with serving(engine_of(model, n_ctx=4096), limits) as served:
        answer = served.post(TEXT, stream=True, **asked)
        assert answer.status_code == 200
        *events, last, rest = answer.text.split("\n\n")
        assert len(events) > 3
        assert rest == ""
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        with served.openai() as client, pytest.raises(openai.APIError, match="not over"):
            for _ in client.completions.create(
                model=NAME,
                prompt="x",
                max_tokens=2000,
                stream=True,
                extra_body={"ignore_eos": True},
            ):
                pass
        whole = served.post(TEXT, **asked)
        assert whole.status_code == 504
        assert served.metric('llamacffi_streams_ended_early_total{reason="error"}') == 2


class Failing(Models):
    """Models whose choice fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def start(self) -> None:
        pass

    async def get(self, name: str | None) -> ServedModel:
        raise self._error

    def release(self, served: ServedModel) -> None:
        raise NotImplementedError

    def present(self) -> Sequence[ServedModel]:
        return ()

    def described(self) -> list[dict[str, Any]]:
        return []

    @property
    def failure(self) -> str | None:
        return "It failed."

    async def close(self, timeout: float) -> None:
        pass


def test_a_defect_of_ours_says_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Failing(RuntimeError("the secret"))) as served:
        answer = served.http.post(TEXT, json={"prompt": "x"}, headers={"X-Request-Id": "mine-1"})
        assert served.http.get("/health").status_code == 503
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "mine-1"
    assert "mine-1" in answer.json()["error"]["message"]
    assert "secret" not in answer.text
    assert "the secret" in caplog.text


@pytest.mark.parametrize(
    ("error", "status"), [(BusyError("The queue is full."), 503), (ClosedError("Closed."), 503)]
)
def test_try_again_later(error: Exception, status: int) -> None:
    with serving(Failing(error)) as served:
        answer = served.post(TEXT, prompt="x")
    assert answer.status_code == status
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["type"] == "server_error"


def test_unknown_exceptions_are_internal() -> None:
    shown = api_error(KeyError("secret"), "req-1")
    assert shown.status_code == 500
    assert "secret" not in json.dumps(shown.body())


def test_request_ids(served: Served) -> None:
    kept = served.http.get("/health", headers={"X-Request-Id": "abc-123.x:y_z"})
    assert kept.headers["x-request-id"] == "abc-123.x:y_z"
    for odd in ("a b", "x" * 200, "<script>", ""):
        made = served.http.get("/health", headers={"X-Request-Id": odd}).headers["x-request-id"]
        assert made.startswith("req-")


# -- any request ----------------------------------------------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 2**33) | st.floats(-2, 3) | st.text(max_size=5)
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=4), SCALARS)
FIELDS = [
    "n", "stop", "seed", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "logit_bias",
    "xtc_probability", "xtc_threshold", "min_keep", "repeat_penalty", "repeat_last_n", "mirostat",
    "mirostat_tau", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n",
    "dry_sequence_breakers", "dynatemp_range", "dynatemp_exponent", "adaptive_target", "samplers",
    "temperature", "grammar", "json_schema", "response_format", "min_tokens", "stream_options",
    "ignore_eos", "model", "user",
]  # fmt: skip
CHAT_FIELDS = [
    "messages", "tools", "tool_choice", "logprobs", "top_logprobs", "reasoning_budget",
    "chat_template_kwargs", "reasoning_effort", "functions", "function_call",
]  # fmt: skip


@pytest.mark.parametrize("path", [TEXT, CHAT])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_request_is_a_defect(served: Served, path: str, data: st.DataObject) -> None:
    """Whatever is in the fields, it is answered or refused."""
    fields = FIELDS + (CHAT_FIELDS if path == CHAT else ["prompt", "echo", "logprobs", "suffix"])
    chosen = data.draw(st.dictionaries(st.sampled_from(fields), VALUES, max_size=3))
    sound = {"messages": HI} if path == CHAT else {"prompt": "x"}
    answer = served.post(path, **{"max_tokens": 1, **sound, **chosen})
    assert answer.status_code in (200, 400, 404), (chosen, answer.text)
