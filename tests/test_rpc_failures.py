"""Workers that die, hang or lie: a typed error in bounded time, and this process goes on."""

from __future__ import annotations

import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llamacffi import Context, Engine, Llama, Model
from llamacffi.engine import AsyncEngine
from llamacffi.errors import LlamaCffiError, RemoteDeviceError
from tests.engines import EXACT, GREEDY
from tests.rpc_servers import RpcProcess, lying_proxy, rpc_server, stand_in, wait_until
from tests.servers import serving
from tests.tiny_models import Sizes, write_model

SOON = 5.0  # seconds, on a busy machine
TIMEOUT = 1.0  # of workers that hang
LOST = "RPC server 127.0.0.1"
Act = Callable[[Context], object]


@pytest.fixture(scope="module")
def worker() -> Iterator[RpcProcess]:
    with rpc_server() as server:
        yield server


@pytest.fixture
def remote(exact_path: Path, worker: RpcProcess) -> Iterator[Model]:
    with Model(
        exact_path, backend="cpu", rpc_servers=worker.endpoint, rpc_timeout=TIMEOUT
    ) as loaded:
        yield loaded


@pytest.fixture
def context(remote: Model) -> Iterator[Context]:
    with remote.context(n_ctx=1024, n_threads=1, **EXACT) as made:
        made.decode_tokens([5, 6, 7])
        yield made


@contextmanager
def lost_soon(words: str = LOST, seconds: float = SOON) -> Iterator[None]:
    started = time.monotonic()
    with pytest.raises(RemoteDeviceError, match=words):
        yield
    assert time.monotonic() - started < seconds


def is_given_up(model: Model, context: Context) -> None:
    """Every further call fails at once, and closing hangs nowhere."""
    for call in (
        lambda: context.decode_tokens([8]),
        lambda: context.decode_token(8, 3),
        lambda: context.logits(),
        lambda: context.save_state(),
        lambda: context.memory.clear(),
        lambda: model.vocab.tokenize("a"),
        lambda: model.available_devices,
        lambda: model.context(n_ctx=64),
    ):
        with lost_soon("given up", 0.5):
            call()
    assert context.broken
    assert model.broken
    started = time.monotonic()
    context.close()
    model.close()
    assert time.monotonic() - started < 1


def still_works(model: Model) -> None:
    with model.context(n_ctx=32, n_threads=1) as context:
        context.decode_tokens([5, 6])


ACTS: dict[str, Act] = {
    "token": lambda context: context.decode_token(8, 3),
    "prompt": lambda context: context.decode_tokens([8] * 200),
    "saving": lambda context: context.save_state(),
    "clearing": lambda context: [context.memory.clear(data=True), context.decode_tokens([5])],
    "context": lambda context: context.model.context(n_ctx=64, n_threads=1),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_worker_killed_between_calls(
    worker: RpcProcess, remote: Model, context: Context, act: Act, tiny_llama: Model
) -> None:
    worker.kill_workers()
    with lost_soon():
        act(context)
    is_given_up(remote, context)
    still_works(tiny_llama)


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_worker_that_hangs(worker: RpcProcess, remote: Model, context: Context, act: Act) -> None:
    worker.signal_workers(signal.SIGSTOP)
    with lost_soon("did not answer in time", SOON + TIMEOUT):
        act(context)
    is_given_up(remote, context)
    worker.kill_workers()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_loading_a_state(worker: RpcProcess, remote: Model, context: Context, number: int) -> None:
    saved = context.save_state()
    worker.signal_workers(number)
    with lost_soon(seconds=SOON + TIMEOUT):
        context.load_state(saved)  # what is sent is not answered
        context.decode_token(8, 3)
    is_given_up(remote, context)
    worker.kill_workers()


def test_a_worker_killed_in_mid_answer(
    exact_path: Path, worker: RpcProcess, tiny_llama: Model
) -> None:
    with Llama(
        exact_path, backend="cpu", n_ctx=1024, n_threads=1, rpc_servers=[worker.endpoint]
    ) as llama:
        pieces = llama.create_completion(
            "a", max_tokens=1000, temperature=0, ignore_eos=True, stream=True
        )
        for _ in range(5):
            next(pieces)
        worker.kill_workers()
        with lost_soon():
            list(pieces)
        with lost_soon("given up", 0.5):
            llama.create_completion("a")
    still_works(tiny_llama)


def test_a_worker_killed_while_it_computes(
    worker: RpcProcess, remote: Model, context: Context
) -> None:
    timer = threading.Timer(0.1, worker.kill_workers)
    timer.start()
    with lost_soon():
        while True:
            context.memory.clear()
            context.decode_tokens([5] * 1000)
    timer.join()
    is_given_up(remote, context)


def test_a_worker_killed_while_embedding(exact_path: Path, worker: RpcProcess) -> None:
    with Llama(
        exact_path, backend="cpu", embedding=True, n_ctx=256, rpc_servers=worker.endpoint
    ) as llama:
        assert len(llama.embed("a word"))
        worker.kill_workers()
        with lost_soon():
            llama.embed(["a word"] * 20)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_lost_while_weights_are_sent(
    tmp_path: Path, worker: RpcProcess, number: int, tiny_llama: Model
) -> None:
    large = write_model(tmp_path / "large.gguf", sizes=Sizes(n_embd=512, n_ff=2048, n_layer=12))

    def progress(fraction: float) -> bool:
        return True

    def strike() -> None:
        wait_until(lambda: bool(worker.workers()))
        wait_until(lambda: worker.workers()[0].memory_info().rss > 60 * 2**20)
        worker.signal_workers(number)

    wait_until(lambda: not worker.workers())
    thread = threading.Thread(target=strike)
    thread.start()
    with lost_soon(seconds=SOON + TIMEOUT + 5):
        while True:  # it may be done before it is struck
            with Model(
                large, backend="cpu", rpc_servers=worker.endpoint, rpc_timeout=TIMEOUT,
                progress=progress,
            ) as model:  # fmt: skip
                still_works(model)
    thread.join()
    worker.kill_workers()
    still_works(tiny_llama)


def test_a_server_that_is_gone_and_comes_back(exact_path: Path, tiny_llama: Model) -> None:
    with rpc_server() as first:
        endpoint = first.endpoint
        model = Model(exact_path, backend="cpu", rpc_servers=endpoint)
        first.process.kill()
        with lost_soon():
            while True:
                still_works(model)
        with lost_soon("could not be reached"):
            Model(exact_path, backend="cpu", rpc_servers=endpoint)
    with rpc_server("--port", endpoint.rpartition(":")[2]) as second:
        assert second.endpoint == endpoint
        with Model(exact_path, backend="cpu", rpc_servers=endpoint) as again:
            still_works(again)
            with lost_soon("given up"):
                still_works(model)
    model.close()


def test_of_two_models_one_goes_on(exact_path: Path, worker: RpcProcess) -> None:
    with (
        rpc_server() as other,
        Model(exact_path, backend="cpu", rpc_servers=worker.endpoint) as one,
        Model(exact_path, backend="cpu", rpc_servers=other.endpoint) as two,
    ):
        other.kill_workers()
        with lost_soon():
            still_works(two)
        still_works(one)


def test_an_engine_tells_everyone_and_ends(exact_path: Path, worker: RpcProcess) -> None:
    errors: list[BaseException] = []
    with (
        Model(exact_path, backend="cpu", rpc_servers=worker.endpoint) as model,
        Engine(model, n_parallel=2, n_ctx=2048, n_threads=1, **EXACT) as engine,
    ):
        asked = {**GREEDY, "max_tokens": 900}

        def ask() -> None:
            try:
                engine.create_completion("a", **asked)
            except LlamaCffiError as error:
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: engine.stats().totals.completion_tokens > 4)
        worker.kill_workers()
        for thread in threads:
            thread.join(SOON)
        assert [type(error) for error in errors] == [RemoteDeviceError] * 4
        with lost_soon():
            engine.create_completion("a", **GREEDY)


def test_an_http_server_says_that_its_model_is_lost(exact_path: Path, worker: RpcProcess) -> None:
    with Model(exact_path, backend="cpu", rpc_servers=worker.endpoint) as model:
        engine = AsyncEngine(Engine(model, n_parallel=1, n_ctx=256, n_threads=1))
        with serving(engine) as served:
            asked = {"prompt": "a", "max_tokens": 2}
            assert served.post("/v1/completions", **asked).status_code == 200
            assert served.http.get("/health").status_code == 200
            worker.kill_workers()
            for _ in range(2):
                answer = served.post("/v1/completions", **asked)
                assert answer.status_code == 503
                assert answer.json()["error"]["code"] == "worker_lost"
                assert worker.endpoint not in answer.text
            assert served.http.get("/health").json() == {"status": "failed"}


# -- ends that are asked for -----------------------------------------------------------------------


def test_closing_a_context_that_waits_for_a_worker_that_hangs(
    exact_path: Path, worker: RpcProcess
) -> None:
    with Model(exact_path, backend="cpu", rpc_servers=worker.endpoint, rpc_timeout=20) as model:
        context = model.context(n_ctx=1024, n_threads=1)
        context.decode_tokens([5])
        worker.signal_workers(signal.SIGSTOP)
        errors: list[BaseException] = []

        def decode() -> None:
            try:
                context.decode_tokens([6])
            except LlamaCffiError as error:
                errors.append(error)

        thread = threading.Thread(target=decode)
        thread.start()
        time.sleep(0.3)
        started = time.monotonic()
        context.close()
        assert time.monotonic() - started < 2 + SOON  # a tenth of the timeout
        thread.join()
        assert isinstance(errors[0], RemoteDeviceError)
        assert "interrupted" in str(errors[0])
    worker.kill_workers()


def test_ctrl_c_while_a_worker_hangs(exact_path: Path, worker: RpcProcess) -> None:
    with (
        Model(exact_path, backend="cpu", rpc_servers=worker.endpoint, rpc_timeout=10) as model,
        model.context(n_ctx=64, n_threads=1) as context,
    ):
        context.decode_tokens([5])
        worker.signal_workers(signal.SIGSTOP)
        timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
        timer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            context.decode_token(6, 1)
        assert time.monotonic() - started < 1 + SOON
        timer.join()
        assert model.broken
    worker.kill_workers()


# -- servers that lie ------------------------------------------------------------------------------

ALLOC, ALIGNMENT, MAX_SIZE, BASE, GET, COPY, MEMORY, ALLOC_SIZE = 0, 1, 2, 3, 8, 9, 11, 13


def numbers(*values: int) -> Callable[[bytes], bytes]:
    return lambda answer: struct.pack(f"<Q{len(values)}Q", 8 * len(values), *values)


LIES: dict[str, tuple[int, Callable[[bytes], bytes | None]]] = {
    "hangs up": (ALLOC, lambda answer: None),
    "a huge size": (ALIGNMENT, lambda answer: struct.pack("<Q", 2**63) + bytes(64)),
    "a short answer": (BASE, lambda answer: struct.pack("<Q", 4) + bytes(4)),
    "no alignment": (ALIGNMENT, numbers(0)),
    "an odd alignment": (ALIGNMENT, numbers(3)),
    "a huge alignment": (ALIGNMENT, numbers(2**63)),
    "no room": (MAX_SIZE, numbers(0)),
    "a small buffer": (ALLOC, numbers(4096, 1)),
    "no memory": (ALLOC, numbers(0, 0)),
    "an address of 0": (BASE, numbers(0)),
    "an odd address": (BASE, numbers(12345)),
    "an address at the end": (BASE, numbers(2**64 - 4096)),
    "tensors of 2**64 bytes": (ALLOC_SIZE, numbers(2**64 - 1)),
    "too much data": (GET, lambda answer: struct.pack("<Q", 2**40) + answer[8:]),
    "too little data": (GET, lambda answer: struct.pack("<Q", 1) + answer[8:9]),
}


@pytest.mark.parametrize(("command", "lie"), LIES.values(), ids=LIES)
def test_a_server_that_lies(
    exact_path: Path, worker: RpcProcess, command: int, lie: Callable[[bytes], bytes | None],
    tiny_llama: Model,
) -> None:  # fmt: skip
    def answer(asked: int, truth: bytes) -> bytes | None:
        return lie(truth) if asked == command else truth

    with lying_proxy(worker.endpoint, answer) as endpoint:
        started = time.monotonic()
        with (
            pytest.raises(LlamaCffiError),
            Model(exact_path, backend="cpu", rpc_servers=endpoint, rpc_timeout=TIMEOUT) as model,
            model.context(n_ctx=64, n_threads=1) as context,
        ):
            context.decode_tokens([5, 6])
            context.save_state()
            pytest.fail("nobody noticed")
        assert time.monotonic() - started < SOON + TIMEOUT
    still_works(tiny_llama)


@pytest.mark.parametrize("byte", [b"\x00", b"\xff", b"\x01"])
def test_a_server_that_fills_answers_with_one_byte(
    exact_path: Path, worker: RpcProcess, byte: bytes, tiny_llama: Model
) -> None:
    """Numbers that mean nothing are for nobody to notice; they must not end the process."""

    def answer(asked: int, truth: bytes) -> bytes:
        return truth if asked in (14, 15) else truth[:8] + byte * (len(truth) - 8)

    with lying_proxy(worker.endpoint, answer) as endpoint, pytest.raises(LlamaCffiError):
        Model(exact_path, backend="cpu", rpc_servers=endpoint, rpc_timeout=TIMEOUT)
    still_works(tiny_llama)


@pytest.mark.parametrize("memory", [(0, 0), (0, 2**40), (2**64 - 1, 2**64 - 1), (2**40, 1)])
def test_any_memory_can_be_split(
    exact_path: Path, worker: RpcProcess, memory: tuple[int, int]
) -> None:
    def answer(asked: int, truth: bytes) -> bytes:
        return numbers(*memory)(truth) if asked == MEMORY else truth

    with (
        lying_proxy(worker.endpoint, answer) as endpoint,
        Model(exact_path, backend="cpu", rpc_servers=[endpoint, worker.endpoint]) as model,
    ):
        still_works(model)


def test_logits_that_are_no_numbers(exact_path: Path, worker: RpcProcess) -> None:
    def answer(asked: int, truth: bytes) -> bytes:
        return truth[:8] + b"\xff" * (len(truth) - 8) if asked == GET else truth

    with (
        lying_proxy(worker.endpoint, answer) as endpoint,
        Llama(exact_path, backend="cpu", n_ctx=64, n_threads=1, rpc_servers=endpoint) as llama,
        pytest.raises(LlamaCffiError),
    ):
        llama.create_completion("a", max_tokens=4)


def test_a_server_that_trickles(exact_path: Path) -> None:
    """A byte now and then is no answer."""
    from tests.rpc_servers import greet

    def answer(connection: Any) -> None:
        greet(connection)
        while True:
            connection.sendall(b"\x08")
            time.sleep(0.2)

    with (
        stand_in(answer) as endpoint,
        lost_soon("did not answer in time|wrong size", SOON + TIMEOUT),
    ):
        Model(exact_path, backend="cpu", rpc_servers=endpoint, rpc_timeout=TIMEOUT)
