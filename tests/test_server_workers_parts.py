"""What the front of several workers is made of: choosing, waiting, merging, asking."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from llamacffi import SamplingParams
from llamacffi.errors import ParameterError
from llamacffi.server import Settings
from llamacffi.server.app import make_router
from llamacffi.server.loading import Loading
from llamacffi.server.models import OneModel
from llamacffi.server.state import State
from llamacffi.server.workers.affinity import affinity_of
from llamacffi.server.workers.backoff import Backoff
from llamacffi.server.workers.balance import Balance
from llamacffi.server.workers.condition import condition
from llamacffi.server.workers.lifeline import packed
from llamacffi.server.workers.merging import merged
from llamacffi.server.workers.process import End, Phase
from llamacffi.server.workers.proxy import whole_events
from llamacffi.server.workers.routes import ADDRESSES, address_of
from llamacffi.server.workers.spec import WorkerSpec, WorkersPolicy
from llamacffi.server.workers.upstream import LostError, UpstreamRequest, exchange
from llamacffi.server.workers.wire import from_json, to_json
from tests.conversations import system, user

# -- choosing -------------------------------------------------------------------------------------


def processes(*opened: int) -> list[Any]:
    return [SimpleNamespace(number=index + 1, open=n) for index, n in enumerate(opened)]


def test_the_least_busy_one() -> None:
    balance = Balance()
    assert balance.choose(processes(2, 0, 1), None).number == 2
    assert {balance.choose(processes(0, 0, 0), None).number for _ in range(6)} == {1, 2, 3}


def test_the_one_that_knows_the_prompt_unless_it_is_busier() -> None:
    balance = Balance()
    assert balance.choose(processes(1, 0), 7).number == 2
    assert balance.choose(processes(0, 1), 7).number == 2
    assert balance.choose(processes(0, 2), 7).number == 1
    assert balance.choose(processes(1, 0), 7).number == 1
    assert balance.choose(processes(5, 5)[1:], 7).number == 2


@given(st.lists(st.integers(0, 3), max_size=60))
def test_equal_requests_are_spread(keys: list[int]) -> None:
    balance, group = Balance(), processes(0, 0, 0)
    for key in keys:
        balance.choose(group, key).open += 1
    opened = [one.open for one in group]
    assert max(opened) - min(opened) <= 2


LONG = "You are a helpful assistant. " * 40


def key_of(**body: Any) -> int | None:
    return affinity_of(json.dumps(body).encode())


def test_what_begins_alike() -> None:
    first = [system(LONG), user("Hi")]
    later = [*first, {"role": "assistant", "content": "Hello."}, user("And you?")]
    assert key_of(messages=first) == key_of(messages=later, temperature=0) is not None
    assert key_of(messages=first) != key_of(messages=[system(LONG), user("Ho")])
    assert key_of(prompt=LONG) == key_of(prompt=LONG + "more") != key_of(prompt="x" + LONG)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b" " * 2000, b"[" + b"1," * 1000 + b"1]", b'{"prompt": "short"}',
     json.dumps({"input": LONG}).encode(), json.dumps({"messages": LONG}).encode(),
     json.dumps({"prompt": [LONG]}).encode()],
)  # fmt: skip
def test_what_says_nothing_about_its_beginning(body: bytes) -> None:
    assert affinity_of(body) is None


def test_odd_messages_have_a_key() -> None:
    assert key_of(messages=[1, None, LONG]) is not None


# -- keeping --------------------------------------------------------------------------------------


def test_waiting_before_another_start() -> None:
    backoff = Backoff()
    waits = [backoff.ended(1) for _ in range(12)]
    assert waits[:5] == [0, 0.5, 1, 2, 4]
    assert waits[-1] == 30
    assert waits == sorted(waits)
    assert backoff.looping
    assert backoff.ended(100) == 0
    assert not backoff.looping


@pytest.mark.parametrize(
    ("end", "reason", "crashed"),
    [(End(0), "status 0", False), (End(3), "status 3", False), (End(-9), "SIGKILL", False),
     (End(-11), "SIGSEGV", True), (End(-9, silent=True), "silent", False),
     (End(-999), "signal 999", False)],
)  # fmt: skip
def test_ends_in_words(end: End, reason: str, crashed: bool) -> None:
    assert (end.reason, end.crashed) == (reason, crashed)


def worker(number: int, phase: Phase, failing: bool = False, status: str = "ok") -> Any:
    process = SimpleNamespace(health={"status": status})
    return SimpleNamespace(number=number, phase=phase, failing=failing, process=process)


@pytest.mark.parametrize(
    ("phases", "status", "word"),
    [
        ([Phase.READY, Phase.READY], 200, "ok"),
        ([Phase.READY, Phase.ENDED], 200, "degraded"),
        ([Phase.READY, Phase.SILENT], 200, "degraded"),
        ([Phase.LOADING, Phase.ENDED], 503, "loading"),
        ([Phase.STARTING], 503, "loading"),
    ],
)
def test_health(phases: list[Phase], status: int, word: str) -> None:
    workers = [worker(index + 1, phase) for index, phase in enumerate(phases)]
    got, body = condition(workers, stopping=False, failed=False)
    assert (got, body["status"]) == (status, word)
    assert list(body["workers"].values()) == [phase.value for phase in phases]


def test_health_of_those_that_fail() -> None:
    failing = [worker(1, Phase.ENDED, failing=True), worker(2, Phase.LOADING)]
    assert condition(failing, False, False)[1]["workers"]["1"] == "failing"
    assert condition(failing, False, False)[:1] == (503,)
    assert condition(failing, False, False)[1]["status"] == "failed"
    assert condition([worker(1, Phase.ENDED)], False, True)[1]["status"] == "failed"
    assert condition(failing, True, False) == (503, {"status": "stopping"})
    full = [worker(1, Phase.READY, status="degraded"), worker(2, Phase.READY)]
    body = {"status": "degraded", "workers": {"1": "ready", "2": "ready"}, "queue_full": [1]}
    assert condition(full, False, False) == (200, body)


@pytest.mark.parametrize("wrong", [{"n_workers": 0}, {"n_workers": 2, "silent_max": 0}])
def test_policies_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="choose more than 0"):
        WorkersPolicy(**wrong)


def test_a_worker_is_not_told_the_keys() -> None:
    spec = WorkerSpec(Loading("x"), ("x",), Settings(api_keys=("secret-key",), per_key_max=1))
    assert b"secret-key" not in packed(spec.behind(1, "/x"))


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(page=None, tokens_max=5, cors_origins=("https://a.example",)),
        Settings(
            page=Path("/x"),
            sampling=SamplingParams(
                temperature=0.5, samplers=("top_k", "temperature"), logit_bias={7: -1.5},
                dry_sequence_breakers=("\n",), json_schema={"type": "object"},
            ),
        ),
    ],
)  # fmt: skip
def test_a_worker_is_told_all_the_rest(settings: Settings) -> None:
    options = {"n_ctx": 512, "chat_format": None}
    spec = WorkerSpec(Loading("x", {"backend": "cpu"}, options), ("x", "y"), settings, 10)
    told = spec.behind(2, "/socket")
    assert from_json(to_json(told)) == told


# -- metrics --------------------------------------------------------------------------------------


def test_pages_of_all_processes() -> None:
    front = (
        "# TYPE llamacffi_http_requests_total counter\nllamacffi_http_requests_total 5\n"
        "# TYPE process_x gauge\nprocess_x 1\n"
        '# TYPE llamacffi_worker_pid gauge\nllamacffi_worker_pid{worker="1"} 77\n'
    )
    page = (
        "# TYPE llamacffi_http_requests_total counter\nllamacffi_http_requests_total 2\n"
        "# TYPE process_x gauge\nprocess_x 3\n"
        '# TYPE y_total counter\ny_total{model="a\\"b"} 4\n'
    )
    text = merged(front, {"1": page, "2": page}).decode()
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples == {
        ("llamacffi_http_requests_total",): 5,
        ("process_x", ("worker", "front")): 1,
        ("process_x", ("worker", "1")): 3,
        ("process_x", ("worker", "2")): 3,
        ("llamacffi_worker_pid", ("worker", "1")): 77,
        ("y_total", ("model", 'a"b'), ("worker", "1")): 4,
        ("y_total", ("model", 'a"b'), ("worker", "2")): 4,
    }
    assert text.count("# TYPE") == 4


def test_the_front_knows_the_addresses() -> None:
    async def never() -> Any:
        raise AssertionError

    routes = make_router(State(OneModel(never, "x"), Settings())).routes
    assert {getattr(route, "path", None) for route in routes} == set(ADDRESSES)
    assert address_of("/v1/models/a/b").path == "/v1/models/{name:path}"
    assert address_of("/else").path == "other"


# -- asking a worker ------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=6)), st.integers(0, 60))
def test_only_whole_events_are_passed(events: list[bytes], cut: int) -> None:
    stream = b"".join(event.replace(b"\n", b"") + b"\n\n" for event in events)
    first, held = whole_events(stream[:cut])
    assert not first or first.endswith(b"\n\n")
    assert b"\n\n" not in held
    second, rest = whole_events(held + stream[cut:])
    assert (first + second, rest) == (stream, b"")


async def _ask(path: Path, answer: bytes, method: bytes = b"POST") -> tuple[int, bytes, bytes]:
    asked: list[bytes] = []

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"|"))
        for index in range(0, len(answer), 7):
            writer.write(answer[index : index + 7])
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answering, path)
    async with server:
        request = UpstreamRequest(method, b"/a?b", [(b"x-y", b"z")], b"body|")
        async with exchange(str(path), request) as got:
            await got.begin()
            body = b"".join([piece async for piece in got.pieces()])
            return got.status, body, asked[0]


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 201 OK\r\nContent-Length: 4\r\n\r\nbody", b"body"),
        (b"HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1\r\ny\r\n0\r\n\r\n",
         b"body"),
        (b"HTTP/1.1 201 OK\r\nContent-Length: 0\r\n\r\n", b""),
    ],
)  # fmt: skip
def test_whole_answers(tmp_path: Path, answer: bytes, body: bytes) -> None:
    status, got, asked = asyncio.run(_ask(tmp_path / "s", answer))
    assert (status, got) == (201, body)
    assert asked == (
        b"POST /a?b HTTP/1.1\r\nx-y: z\r\nconnection: close\r\ncontent-length: 5\r\n\r\nbody|"
    )


def test_a_head_has_no_body(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    assert asyncio.run(_ask(tmp_path / "s", answer, b"HEAD"))[:2] == (200, b"")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbod",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nbod\r\n",
    ],
)
def test_answers_that_are_lost(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(LostError):
        asyncio.run(_ask(tmp_path / "s", answer))


def test_nobody_listens(tmp_path: Path) -> None:
    async def ask() -> None:
        async with exchange(str(tmp_path / "nothing"), UpstreamRequest(b"GET", b"/")):
            raise AssertionError

    with pytest.raises(LostError):
        asyncio.run(ask())
