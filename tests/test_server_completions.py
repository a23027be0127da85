"""Text completions, tokens, models, health and metrics over HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openai import OpenAI

from llamacffi import Model, SamplingParams
from llamacffi.engine import AsyncEngine, Engine
from llamacffi.server import Settings
from llamacffi.server.schemas.completion import CompletionRequest
from tests.completions import PROMPT, joined
from tests.conftest import N_THREADS
from tests.servers import NAME, Served, engine_of, eventually, serving

GREEDY: dict[str, Any] = {"model": NAME, "temperature": 0, "max_tokens": 5}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<p>hello</p>", encoding="utf-8")
    (folder / "app.js").write_text("1", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def served(model: Model, page: Path) -> Iterator[Served]:
    with serving(engine_of(model), Settings(page=page)) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with served.openai() as made:
        yield made


def events(text: str) -> list[Any]:
    """The events of a stream, which ends as OpenAI's do."""
    *data, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in data]


# -- completions ----------------------------------------------------------------------------------


def test_a_completion_and_its_stream(client: OpenAI) -> None:
    whole = client.completions.create(prompt=PROMPT, **GREEDY)
    assert whole.choices[0].text.startswith(" Paris")
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 5
    options = {"include_usage": True}
    stream = client.completions.create(prompt=PROMPT, stream=True, stream_options=options, **GREEDY)
    *chunks, last = [chunk.model_dump() for chunk in stream]
    assert joined(iter(chunks))["text"] == whole.choices[0].text
    assert last["usage"]["completion_tokens"] == 5


def test_16_tokens_by_default(client: OpenAI) -> None:
    result = client.completions.create(prompt=PROMPT, model=NAME, extra_body={"ignore_eos": True})
    assert result.usage is not None
    assert result.usage.completion_tokens == 16


def test_several_prompts(served: Served) -> None:
    prompts = [PROMPT, "One, two, three,"]
    alone = [
        served.post("/v1/completions", prompt=prompt, n=2, **GREEDY).json() for prompt in prompts
    ]
    together = served.post("/v1/completions", prompt=prompts, n=2, **GREEDY).json()
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for result in alone for choice in result["choices"]]
    assert [choice["text"] for choice in together["choices"]] == texts
    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert together["usage"][key] == sum(result["usage"][key] for result in alone)

    body = {"prompt": prompts, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = events(served.post("/v1/completions", **body, **GREEDY).text)
    for index, text in enumerate(texts):
        assert joined(iter(chunks), index)["text"] == text
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1
    assert last["usage"]["total_tokens"] == together["usage"]["total_tokens"]


def test_token_ids_as_prompt(served: Served) -> None:
    tokens = served.post("/tokenize", content=PROMPT).json()["tokens"]
    for prompt in (PROMPT, tokens, [tokens]):
        answer = served.post("/v1/completions", prompt=prompt, **GREEDY).json()
        assert answer["choices"][0]["text"].startswith(" Paris")


def test_a_prompt_is_scored(client: OpenAI) -> None:
    asked = {**GREEDY, "max_tokens": 0}
    result = client.completions.create(prompt=PROMPT, echo=True, logprobs=2, **asked)
    choice = result.choices[0]
    assert choice.text == PROMPT
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs is not None
    assert len(choice.logprobs.token_logprobs) == 5


def test_the_names_of_llama_server(served: Served) -> None:
    answer = served.post("/v1/completions", prompt=PROMPT, n_predict=2, n_probs=3, temperature=0)
    choice = answer.json()["choices"][0]
    assert len(choice["logprobs"]["tokens"]) == 2
    assert len(choice["logprobs"]["top_logprobs"][0]) == 3


def test_a_biased_token(served: Served) -> None:
    (paris,) = served.post("/tokenize", content=" Paris").json()["tokens"]
    for bias in ({str(paris): False}, [[paris, -100]]):
        answer = served.post("/v1/completions", prompt=PROMPT, logit_bias=bias, **GREEDY).json()
        assert not answer["choices"][0]["text"].startswith(" Paris")


@pytest.mark.parametrize(
    ("given", "used"), [(7, 7), (-1, None), (2**32 - 1, 0), (2**40, 2**40 % (2**32 - 1))]
)
def test_seeds(given: int, used: int | None) -> None:
    """OpenAI's have 64 bits; llama.cpp's 32, one of which stands for a random one."""
    request = CompletionRequest(prompt="x", seed=given)
    assert request.sampling(SamplingParams(seed=3)).seed == used


def test_curl(served: Served) -> None:
    curl = shutil.which("curl")
    assert curl is not None, "ci/test installs curl"
    body = json.dumps({"prompt": PROMPT, "stream": True, **GREEDY})
    done = subprocess.run(
        [curl, "-sS", "-N", f"{served.url}/v1/completions", "--json", body],
        capture_output=True,
        text=True,
        check=True,
    )
    assert joined(iter(events(done.stdout)))["text"].startswith(" Paris")


# -- tokens ---------------------------------------------------------------------------------------


def test_tokens_there_and_back(served: Served) -> None:
    text = "Hello <|im_end|> é😀"
    answer = served.post("/tokenize", content=text, with_pieces=True).json()
    spelled = b"".join(
        entry["piece"].encode() if isinstance(entry["piece"], str) else bytes(entry["piece"])
        for entry in answer["tokens"]
    )
    assert spelled.decode() == text
    ids = [entry["id"] for entry in answer["tokens"]]
    assert served.post("/tokenize", content=text).json() == {"tokens": ids}
    assert served.post("/detokenize", tokens=ids).json() == {"content": text}
    unread = served.post("/tokenize", content=text, parse_special=False).json()["tokens"]
    assert len(unread) > len(ids)


# -- models, health, pages ------------------------------------------------------------------------


def test_models(client: OpenAI) -> None:
    (listed,) = client.models.list().data
    assert listed.id == NAME
    assert client.models.retrieve("other-name").id == NAME
    assert listed.owned_by == "llamacffi"


def test_health(served: Served) -> None:
    answer = served.http.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_metrics_count(served: Served) -> None:
    route = 'route="/v1/completions"'
    names = [
        f'llamacffi_http_requests_total{{{route},status="200"}}',
        f"llamacffi_http_request_seconds_count{{{route}}}",
        f"llamacffi_first_token_seconds_count{{{route}}}",
        f'llamacffi_engine_completion_tokens_total{{model="{NAME}"}}',
    ]
    before = [served.metric(name) for name in names]
    served.post("/v1/completions", prompt=PROMPT, **GREEDY)
    served.post("/v1/completions", prompt=PROMPT, stream=True, **GREEDY)

    def counted() -> bool:  # a request counts when its end is sent, which may be read already
        after = [served.metric(name) for name in names]
        return [b - a for a, b in zip(before, after, strict=True)] == [2, 2, 1, 10]

    eventually(counted)
    assert served.metric("process_resident_memory_bytes") > 1e8
    assert served.metric(f'llamacffi_engine_n_running{{model="{NAME}"}}') == 0


def test_the_api_is_described(served: Served) -> None:
    described = served.http.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/completions", "/health"} <= set(described["paths"])
    page = served.http.get("/docs")
    assert "POST /v1/chat/completions" in page.text
    assert "repeat_last_n" in page.text


def test_no_page_asks_elsewhere(served: Served) -> None:
    page = served.http.get("/docs")
    assert "://" not in page.text
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_page_of_a_folder(served: Served) -> None:
    assert served.http.get("/").text == "<p>hello</p>"
    assert served.http.get("/app.js").text == "1"
    assert served.http.get("/v1/models").json()["data"]
    assert served.http.get("/../pyproject.toml").status_code == 404
    assert served.http.get("/%2e%2e/pyproject.toml").status_code == 404


def headers_of(answer: httpx.Response) -> set[str]:
    return set(answer.headers)


@pytest.mark.parametrize("path", ["/health", "/docs", "/", "/nothing"])
def test_security_headers(served: Served, path: str) -> None:
    answer = served.http.get(path)
    assert {"x-content-type-options", "x-frame-options", "referrer-policy"} <= headers_of(answer)
    assert "server" not in headers_of(answer)


# -- vectors --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedding(minilm: Path) -> Iterator[Served]:
    with (
        Model(minilm / "model.gguf", backend="cpu") as model,
        serving(AsyncEngine(Engine(model, n_threads=N_THREADS))) as served,
    ):
        yield served


def test_vectors(embedding: Served) -> None:
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Stocks fell sharply."]
    with embedding.openai() as client:  # it asks for base64, and unpacks it
        found = client.embeddings.create(model=NAME, input=texts, user="me")
        cat, kitten, stocks = (np.array(entry.embedding) for entry in found.data)
        assert found.usage.prompt_tokens > 10
        assert cat @ cat == pytest.approx(1)
        assert cat @ kitten > 0.5 > cat @ stocks
        short = client.embeddings.create(model=NAME, input=texts[0], dimensions=16)
        assert len(short.data[0].embedding) == 16
    plain = embedding.post("/v1/embeddings", input=texts[0]).json()["data"][0]["embedding"]
    assert np.allclose(plain, cat, atol=1e-5)
    too_long = embedding.post("/v1/embeddings", input="word " * 2000)
    assert too_long.status_code == 400
    assert too_long.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rerank", {"query": "x", "documents": ["y"]}),
        ("/rerank", {"query": "x", "documents": ["y"]}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ],
)
def test_what_an_encoder_cannot(embedding: Served, path: str, body: dict[str, Any]) -> None:
    answer = embedding.post(path, **body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/embeddings", {"input": "x"}), ("/v1/rerank", {"query": "x", "documents": ["y"]})],
)
def test_a_generator_makes_no_vectors(served: Served, path: str, body: dict[str, Any]) -> None:
    answer = served.post(path, **body)
    assert answer.status_code == 400
    assert "pooling" in answer.json()["error"]["message"]
