"""Several workers behind one address: real processes, which are killed, stopped and replaced."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from llamacffi import Model
from tests.completions import PROMPT
from tests.servers import ServerProcess, engine_of, eventually, server_process, serving

PATH = "/v1/completions"
LONG: dict[str, Any] = {"max_tokens": 3000, "temperature": 0, "ignore_eos": True}
OPTIONS = ("--workers", "2", "--n-ctx", "4096", "--n-threads", "1", "--worker-timeout", "4")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="workers listen on Unix-domain sockets")


@dataclass
class Group:
    """A server with workers."""

    server: ServerProcess
    http: httpx.Client

    def figures(self, name: str) -> dict[str, float]:
        """A metric by worker; the name may have labels."""
        found = re.findall(rf'^{name}[,{{].*worker="(\d)".*}} (\S+)$', self.page(), re.M)
        return {worker: float(value) for worker, value in found}

    def page(self) -> str:
        return self.http.get("/metrics").text

    def pids(self) -> dict[str, int]:
        return {worker: int(pid) for worker, pid in self.figures("llamacffi_worker_pid").items()}

    def busy(self) -> list[str]:
        """The workers that answer something."""
        figures = self.figures("llamacffi_worker_requests_open")
        return [worker for worker, value in figures.items() if value]

    def health(self) -> Any:
        return self.http.get("/health").json()

    def whole(self) -> None:
        """Wait until all workers are there."""
        eventually(lambda: self.health()["status"] == "ok")

    def answers(self) -> None:
        body = {"prompt": PROMPT, "max_tokens": 2, "temperature": 0}
        answer = self.http.post(PATH, json=body)
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["text"].startswith(" Paris")

    @contextmanager
    def stream(self, prompt: str = PROMPT, **asked: Any) -> Iterator[Iterator[str]]:
        """A stream that has begun."""
        body = {"prompt": prompt, "stream": True, **LONG, **asked}
        with self.http.stream("POST", PATH, json=body) as stream:
            assert stream.status_code == 200
            lines = (line for line in stream.iter_lines() if line)
            next(lines)
            yield lines

    def ask(self, results: list[httpx.Response], **asked: Any) -> threading.Thread:
        """Ask in a thread for a whole answer."""
        body = {"prompt": PROMPT, **LONG, **asked}
        thread = threading.Thread(
            target=lambda: results.append(self.http.post(PATH, json=body)), daemon=True
        )
        thread.start()
        return thread


@contextmanager
def grouped(*arguments: str, key: str = "none") -> Iterator[Group]:
    with server_process(*arguments) as server:
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60) as http:
            yield Group(server, http)
        if server.process.poll() is None:
            server.terminate()  # killed, it would leave its folder of sockets


@pytest.fixture(scope="module")
def shared(model_path: Path) -> Iterator[Group]:
    with grouped(str(model_path), *OPTIONS) as group:
        yield group


@pytest.fixture
def group(shared: Group) -> Group:
    shared.whole()
    return shared


def gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


# -- workers that end -----------------------------------------------------------------------------


def test_a_worker_killed_in_mid_answer(group: Group) -> None:
    before = group.pids()
    with group.stream() as lost:
        [victim] = group.busy()
        with group.stream("One, two, three,", max_tokens=80) as kept:
            assert sorted(group.busy()) == ["1", "2"]
            os.kill(before[victim], signal.SIGKILL)
            *events, last = lost
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "worker_lost"
            assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events)
            group.answers()
            *events, last = kept
            assert last == "data: [DONE]"
            assert json.loads(events[-1].removeprefix("data: "))["choices"][0]["finish_reason"]
            assert len(events) > 40
    group.whole()
    after = group.pids()
    assert after[victim] != before[victim]
    assert len(after) == 2
    assert {**after, victim: 0} == {**before, victim: 0}
    with group.stream(max_tokens=200), group.stream("One, two, three,", max_tokens=200):
        assert sorted(group.busy()) == ["1", "2"]


def test_what_was_not_yet_answered_is_asked_of_another(group: Group) -> None:
    results: list[httpx.Response] = []
    thread = group.ask(results, max_tokens=60)
    eventually(group.busy)
    [victim] = group.busy()
    os.kill(group.pids()[victim], signal.SIGKILL)
    thread.join()
    assert results[0].status_code == 200
    assert results[0].json()["usage"]["completion_tokens"] == 60


def test_what_may_have_crashed_a_worker_is_not(group: Group) -> None:
    results: list[httpx.Response] = []
    thread = group.ask(results)
    eventually(group.busy)
    [victim] = group.busy()
    before = group.pids()
    os.kill(before[victim], signal.SIGABRT)
    thread.join()
    assert results[0].status_code == 502
    assert results[0].json()["error"]["code"] == "worker_lost"
    assert not group.busy()
    assert group.figures('llamacffi_worker_ends_total{reason="SIGABRT"')[victim] == 1


def test_a_worker_that_hangs_is_replaced(group: Group) -> None:
    before = group.pids()
    with group.stream() as lost:
        [victim] = group.busy()
        os.kill(before[victim], signal.SIGSTOP)
        eventually(lambda: group.health()["workers"][victim] == "silent")
        assert group.health()["status"] == "degraded"
        group.answers()
        *_, last = lost
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "worker_lost"
    group.whole()
    assert gone(before[victim])
    assert group.figures('llamacffi_worker_ends_total{reason="silent"')[victim] == 1


def test_a_worker_that_ends_again_and_again(tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(tiny_path, path)
    body = {"prompt": "x", "max_tokens": 1}
    with grouped(str(path), *OPTIONS) as group:
        group.whole()
        kept = path.rename(tmp_path / "kept.gguf")
        path.write_bytes(b"GGUF")
        os.kill(group.pids()["1"], signal.SIGKILL)
        eventually(lambda: group.health()["workers"]["1"] == "failing")
        assert group.http.get("/health").status_code == 200
        assert group.health()["status"] == "degraded"
        assert group.http.post(PATH, json=body).status_code == 200
        kept.rename(path)
        group.whole()
        assert group.server.terminate() == 0
        assert group.server.process.stderr is not None
        log = group.server.process.stderr.read()
    assert "worker 1 ended (SIGKILL)" in log
    assert "it does so again and again" in log
    assert "Traceback" not in log


# -- the supervisor -------------------------------------------------------------------------------


def test_one_limit_for_all_workers_and_a_clean_end(model_path: Path) -> None:
    options = [*OPTIONS, "--api-key", "key", "--per-key", "1", "--allowed-host", "llm.example"]
    with grouped(str(model_path), *options, key="key") as group:
        assert group.health()["status"] in ("loading", "degraded")
        group.whole()
        assert httpx.get(f"{group.server.url}/metrics").status_code == 401
        assert httpx.get(f"{group.server.url}/v1/models").status_code == 401
        assert group.http.get("/health", headers={"Host": "evil.example"}).status_code == 403
        assert group.http.get("/v1/models", headers={"Host": "llm.example"}).status_code == 200
        pids = group.pids()
        with group.stream(max_tokens=80) as lines:
            assert group.http.post("/tokenize", json={"content": "x"}).status_code == 429
            group.server.process.terminate()
            *_, last = lines
        assert last == "data: [DONE]"
        assert group.server.process.wait(20) == 0
        assert all(map(gone, pids.values()))


def test_what_takes_too_long_is_told_so(model_path: Path) -> None:
    with grouped(str(model_path), *OPTIONS, "--shutdown-timeout", "0.5") as group:
        eventually(lambda: group.http.get("/health").status_code == 200)
        results: list[httpx.Response] = []
        with group.stream() as lines:
            thread = group.ask(results)
            eventually(lambda: sum(group.figures("llamacffi_worker_requests_open").values()) == 2)
            group.server.process.terminate()
            *_, last = lines
        thread.join()
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "server_stopping"
        assert results[0].status_code == 503
        assert results[0].json()["error"]["code"] == "server_stopping"
        assert group.server.process.wait(20) == 0


def test_a_port_that_is_taken(group: Group, model_path: Path) -> None:
    command = [sys.executable, "-m", "llamacffi", "serve", str(model_path), *OPTIONS]
    port = group.server.url.rpartition(":")[2]
    # In a folder whose name would be too long for a socket's.
    with tempfile.TemporaryDirectory(prefix="x" * 100) as folder:
        done = subprocess.run(
            [*command, "--port", port],
            env=os.environ | {"TMPDIR": folder},
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert not list(Path(folder).iterdir())
    assert done.returncode != 0
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_time_of_workers_without_workers() -> None:
    command = [sys.executable, "-m", "llamacffi", "serve", "x", "--worker-timeout", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--workers" in done.stderr


def test_no_worker_outlives_a_killed_supervisor(model_path: Path) -> None:
    with grouped(str(model_path), *OPTIONS) as group:
        group.whole()
        pids = group.pids()
        with contextlib.suppress(httpx.HTTPError), group.stream():
            if os.uname().sysname == "Linux":
                os.kill(pids["1"], signal.SIGSTOP)  # cannot notice anything by itself
            group.server.process.kill()
        eventually(lambda: all(map(gone, pids.values())), 5)


def test_a_second_interrupt_ends_all(model_path: Path) -> None:
    with grouped(str(model_path), *OPTIONS) as group:
        group.whole()
        pids = group.pids()
        with contextlib.suppress(httpx.HTTPError), group.stream() as lines:
            group.server.process.send_signal(signal.SIGINT)
            for _ in range(5):
                assert "choices" in next(lines)
            group.server.process.send_signal(signal.SIGINT)
            group.server.process.wait(10)
        eventually(lambda: all(map(gone, pids.values())), 5)


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with server_process(str(broken), *OPTIONS) as server:
        assert server.process.stderr is not None
        log = server.process.stderr.read()
        assert server.process.wait(20) == 1
    assert "broken.gguf" in log
    assert "cannot be loaded" in log
    assert "Traceback" not in log


# -- as one server --------------------------------------------------------------------------------


def test_metrics_of_all(group: Group) -> None:
    group.answers()
    page = group.page()
    assert f'\nllamacffi_http_requests_total{{route="{PATH}",status="200"}} ' in page
    for worker in ("1", "2"):
        assert group.figures("llamacffi_engine_n_parallel")[worker] == 8
        assert f'process_resident_memory_bytes{{worker="{worker}"}}' in page
    assert 'process_resident_memory_bytes{worker="front"}' in page
    kinds = re.findall(r"^# TYPE (\S+)", page, re.M)
    assert len(kinds) == len(set(kinds))


def lasting(answer: httpx.Response) -> list[tuple[str, str]]:
    """The headers, but for what is new each time."""
    changing = ("date", "x-request-id")
    return sorted(item for item in answer.headers.multi_items() if item[0] not in changing)


def test_answers_are_those_of_one_process(group: Group, model: Model) -> None:
    asked = [
        ("GET", "/v1/models/nothing", {}),
        ("GET", "/nothing?x=%2F", {}),
        ("GET", "/docs", {}),
        ("GET", "/", {}),
        ("DELETE", PATH, {}),
        ("HEAD", "/docs", {}),
        ("POST", PATH, {"content": b"{"}),
        ("POST", PATH, {"json": {"prompt": "x", "nonsense": 1}}),
        ("POST", "/tokenize", {"json": {"content": "größe 🎈"}, "headers": {"x-request-id": "me"}}),
    ]
    with serving(engine_of(model)) as alone:
        for method, path, more in asked:
            one, several = (http.request(method, path, **more) for http in (alone.http, group.http))
            assert several.status_code == one.status_code, path
            assert several.content == one.content
            assert lasting(several) == lasting(one)
            if "headers" in more:
                assert several.headers["x-request-id"] == "me"


def test_turns_of_a_conversation_meet_the_same_worker(group: Group) -> None:
    messages = [{"role": "user", "content": "What is the capital of France? " * 40}]
    before = group.figures("llamacffi_engine_requests_total")
    for turn in range(4):
        body = {"messages": messages, "max_tokens": 4, "temperature": 0}
        answer = group.http.post("/v1/chat/completions", json=body).json()
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert bool(turn) == (cached > 50)
        messages += [answer["choices"][0]["message"], {"role": "user", "content": "And Italy?"}]
    after = group.figures("llamacffi_engine_requests_total")
    assert sorted(after[worker] - before[worker] for worker in after) == [0, 4]


def test_a_client_that_leaves_frees_its_place(group: Group) -> None:
    with group.stream():
        assert sum(group.figures("llamacffi_engine_n_running").values()) == 1
    eventually(lambda: not group.busy())
    eventually(lambda: sum(group.figures("llamacffi_engine_n_running").values()) == 0, 5)
