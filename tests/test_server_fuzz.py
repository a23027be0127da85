"""Whatever fits the description of the interface, and what does not, gets an answer that fits it.

schemathesis makes the requests from GET /openapi.json, and checks the answers against it.
LLAMACFFI_FUZZ_EXAMPLES makes more of them.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from llamacffi.server import ManyModels, ModelSpec, Settings, create_app
from tests.completions import PROMPT
from tests.conftest import N_THREADS, ROOT
from tests.servers import NAME, Served, eventually, serving
from tests.tiny_models import write_reranker

EXAMPLES = int(os.environ.get("LLAMACFFI_FUZZ_EXAMPLES", "25"))
KEY = "the-key"
FIELDS = 4  # beside the required ones
REQUIRED = ("messages", "prompt", "input", "query", "documents", "content", "tokens")
MODELS = {"/v1/embeddings": "minilm", "/v1/rerank": "reranker"}
LIMITS = Settings(api_keys=(KEY,), tokens_max=3, choices_max=12, inputs_max=4, timeout=20)
CHECKS = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
DESCRIBED = create_app(ManyModels([ModelSpec("x", "x")]), LIMITS).openapi()
OPERATIONS = {
    f"{method.upper()} {path}": (method, path)
    for path, methods in DESCRIBED["paths"].items()
    for method in methods
}
API = schemathesis.openapi.from_dict(DESCRIBED)


@pytest.fixture(scope="module")
def served(
    model_path: Path, minilm: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    reranker = write_reranker(tmp_path_factory.mktemp("reranker") / "model.gguf")
    shared: dict[str, Any] = {"backend": "cpu", "n_ctx": 512, "n_threads": N_THREADS}
    models = [
        ModelSpec(NAME, str(model_path), pinned=True, **shared),
        ModelSpec("minilm", str(minilm / "model.gguf"), pinned=True, **shared),
        ModelSpec("reranker", str(reranker), pinned=True, **shared),
    ]
    with serving(ManyModels(models), LIMITS, KEY) as server:
        eventually(lambda: server.http.get("/health").status_code == 200)
        yield server


def cases(name: str, mode: GenerationMode) -> st.SearchStrategy[Case]:
    method, path = OPERATIONS[name]
    strategy: st.SearchStrategy[Case] = API[path][method].as_strategy(generation_mode=mode)
    return strategy


def fitted(case: Case, kept: random.Random) -> Case:
    """With a few fields that mostly make sense here: of all at once, one is wrong nearly always."""
    body = case.body
    if not isinstance(body, dict):
        return case
    others = [name for name in body if name not in REQUIRED]
    left = kept.sample(others, min(len(others), kept.randint(0, FIELDS)))
    case.body = body = {name: body[name] for name in body if name in (*REQUIRED, *left)}
    # A wrong model would end the request early; that has a test of its own.
    body["model"] = MODELS.get(case.path, NAME)
    for name in ("max_tokens", "max_completion_tokens", "n_predict", "n", "best_of"):
        if is_count(body.get(name)):
            body[name] = 1 + int(body[name]) % LIMITS.tokens_max
    for name in ("prompt", "input", "tokens", "documents"):
        if isinstance(body.get(name), list):
            body[name] = [in_vocabulary(item) for item in body[name][: LIMITS.inputs_max]]
    return case


def in_vocabulary(item: Any) -> Any:
    if isinstance(item, list):
        return [in_vocabulary(token) for token in item]
    return int(item) % 20_000 if is_count(item) else item


def is_count(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()  # which is an integer in JSON
    return isinstance(value, int) and not isinstance(value, bool)


def check(case: Case, served: Served) -> Any:
    headers = {"Authorization": f"Bearer {KEY}"}
    response = case.call(base_url=served.url, headers=headers, timeout=60)
    told = (response.status_code, case.body, response.text[:500])
    assert response.status_code < 500, told
    case.validate_response(response, checks=CHECKS, headers=headers)
    return response


def fuzzed(served: Served, name: str, mode: GenerationMode) -> Counter[int]:
    """Send requests; returns how often each status came back."""
    found: Counter[int] = Counter()

    @seed(EXAMPLES)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(name, mode), kept=st.randoms(use_true_random=False))
    def send(case: Case, kept: random.Random) -> None:
        found[check(fitted(case, kept), served).status_code] += 1

    send()
    return found


@pytest.mark.parametrize("name", OPERATIONS)
def test_requests_that_fit(served: Served, name: str) -> None:
    statuses = fuzzed(served, name, GenerationMode.POSITIVE)
    assert set(statuses) <= {200, 400, 404}
    # The names that are made up are no model's; each of the others does what it is for.
    assert statuses[404 if name.endswith("{name}") else 200]
    still_answers(served)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("POST")])
def test_requests_that_do_not_fit(served: Served, name: str) -> None:
    assert fuzzed(served, name, GenerationMode.NEGATIVE)[400]
    still_answers(served)


def still_answers(served: Served) -> None:
    assert served.http.get("/health").json() == {"status": "ok"}
    answer = served.post("/v1/completions", model=NAME, prompt=PROMPT, max_tokens=1)
    assert answer.status_code == 200, answer.text
    assert served.post("/v1/embeddings", model="minilm", input="x").status_code == 200
    assert served.metric(f'llamacffi_engine_n_running{{model="{NAME}"}}') == 0


# -- the description ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
def test_examples_are_answered(served: Served, name: str) -> None:
    method, path = OPERATIONS[name]
    case = API[path][method].Case(path_parameters={"name": NAME} if "{name}" in path else {})
    bodies: list[Any] = [None]
    if method == "post":
        bodies = [{**body, "model": MODELS.get(path, NAME)} for body in examples(path)]
    if "text/event-stream" in DESCRIBED["paths"][path][method]["responses"]["200"]["content"]:
        bodies += [{**body, "stream": True} for body in bodies]
    for body in bodies:
        if body is not None:
            case.body, case.media_type = {**body, **shortened(body)}, "application/json"
        assert check(case, served).status_code == 200


def examples(path: str) -> list[dict[str, Any]]:
    body = DESCRIBED["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    name = body["schema"]["$ref"].rpartition("/")[2]
    found: list[dict[str, Any]] = DESCRIBED["components"]["schemas"][name]["examples"]
    return found


def shortened(body: dict[str, Any]) -> dict[str, Any]:
    return {"max_tokens": 2} if "max_tokens" in body else {}


@pytest.mark.parametrize("name", OPERATIONS)
def test_who_has_no_key_is_told_as_described(served: Served, name: str) -> None:
    method, path = OPERATIONS[name]
    case = API[path][method].Case(path_parameters={"name": NAME} if "{name}" in path else {})
    if method == "post":
        case.body, case.media_type = examples(path)[0], "application/json"
    response = case.call(base_url=served.url, headers={"Authorization": "Bearer wrong"})
    operation = DESCRIBED["paths"][path][method]
    assert response.status_code == (200 if operation.get("security") == [] else 401)
    case.validate_response(response, checks=CHECKS)


def test_keys_are_described_where_there_are_keys() -> None:
    assert DESCRIBED["security"] == [{"key": []}]
    assert DESCRIBED["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert {path for path, way in DESCRIBED["paths"].items() if "get" in way and
            way["get"].get("security") == []} == {"/health"}  # fmt: skip
    without = create_app(ManyModels([ModelSpec("x", "x")])).openapi()
    assert "security" not in without
    assert not any(
        "401" in operation["responses"]
        for ways in without["paths"].values()
        for operation in ways.values()
    )


def test_every_status_is_described() -> None:
    """Those of the documentation's table of errors; FastAPI's own 422 is never sent."""
    text = (ROOT / "docs" / "server.md").read_text(encoding="utf-8").partition("## Errors")[2]
    rows = re.findall(r"^\| ((?:\d{3}(?:, )?)+) \|", text.partition("## Access")[0], re.M)
    told = {status for row in rows for status in row.split(", ")}
    for name, (method, path) in OPERATIONS.items():
        described = set(DESCRIBED["paths"][path][method]["responses"])
        assert "422" not in described
        if method == "post":
            assert described == told - {"405"} | {"200"}, name
    assert "HTTPValidationError" not in DESCRIBED["components"]["schemas"]
