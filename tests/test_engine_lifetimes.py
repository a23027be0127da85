"""Lifetimes of engines: closing, dropping, forks, Ctrl-C, exits; and a storm of everything."""

from __future__ import annotations

import functools
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from llamacffi import Engine, Llama, Model, SamplingParams
from llamacffi.batch import Batch
from llamacffi.errors import (
    BusyError,
    ClosedError,
    DeadlineError,
    DecodeError,
    ForkedError,
)
from tests.conftest import ROOT
from tests.engines import (
    HANG_SECONDS,
    Gate,
    Running,
    complete,
    decoding,
    engine_on,
    settled,
    text_of,
    wait_for,
)
from tests.test_lifetimes import _in_fork
from tests.worker_threads import no_worker_left

ENDLESS: dict[str, Any] = {"max_tokens": 250, "ignore_eos": True}


def made(model: Model, **parameters: Any) -> Engine:
    return Engine(model, **{"n_parallel": 4, "n_ctx": 256, "n_threads": 1, **parameters})


@pytest.fixture(autouse=True)
def no_threads() -> Any:
    yield
    no_worker_left()


def test_closing_ends_what_runs_and_what_waits(tiny_llama: Model) -> None:
    engine = made(tiny_llama, n_parallel=1)
    gate, running = Gate(), Running()
    running.start(lambda: complete(engine, [5], logits_processor=gate, **ENDLESS))
    assert gate.entered.wait(HANG_SECONDS)
    running.start(lambda: complete(engine, [6]))
    wait_for(lambda: engine.stats().n_waiting == 1)
    closer = threading.Thread(target=engine.close)
    closer.start()
    wait_for(lambda: engine.closed)
    with pytest.raises(ClosedError):
        complete(engine, [7])
    gate.open()
    closer.join(HANG_SECONDS)
    assert [type(result) for result in running.join()] == [ClosedError, ClosedError]
    engine.close()
    assert engine.context.closed
    stats = settled(engine)
    assert stats.totals.failed == 2
    with pytest.raises(ClosedError, match="The engine was closed"):
        engine.check_room()


def test_closing_may_wait_for_the_rest(tiny_llama: Model) -> None:
    engine = made(tiny_llama, n_parallel=1)
    gate, running = Gate(), Running()
    running.start(lambda: complete(engine, [5], logits_processor=gate))
    assert gate.entered.wait(HANG_SECONDS)
    running.start(lambda: complete(engine, [6]))
    wait_for(lambda: engine.stats().n_waiting == 1)
    threading.Timer(0.02, gate.open).start()
    engine.close(timeout=None)
    assert [result["usage"]["completion_tokens"] for result in running.join()] == [8, 8]


def test_closing_waits_no_longer_than_it_may(tiny_llama: Model) -> None:
    engine = made(tiny_llama)
    gate, running = Gate(), Running()
    running.start(lambda: complete(engine, [5], logits_processor=gate, **ENDLESS))
    assert gate.entered.wait(HANG_SECONDS)
    threading.Timer(0.1, gate.open).start()
    engine.close(timeout=0.01)
    assert isinstance(running.join()[0], ClosedError)


def test_submitting_while_it_closes(tiny_llama: Model) -> None:
    """Each call ends with a result or ClosedError; none waits forever."""
    for _ in range(15):
        engine = made(tiny_llama)
        running = Running()
        for number in range(6):
            running.start(functools.partial(complete, engine, [5 + number], max_tokens=3))
        running.start(engine.close)
        *results, nothing = running.join()
        assert nothing is None
        assert {type(result) for result in results} <= {dict, ClosedError}


def test_a_model_that_is_closed_first(exact_path: Path) -> None:
    model = Model(exact_path, backend="cpu")
    engine = made(model)
    gate, running = Gate(), Running()
    running.start(lambda: complete(engine, [5], logits_processor=gate, **ENDLESS))
    assert gate.entered.wait(HANG_SECONDS)
    running.start(lambda: complete(engine, [6], **ENDLESS))
    wait_for(lambda: engine.stats().n_waiting + engine.stats().n_running == 2)
    closer = threading.Thread(target=model.close)
    closer.start()
    gate.open()
    assert [type(result) for result in running.join()] == [ClosedError, ClosedError]
    closer.join(HANG_SECONDS)
    with pytest.raises(ClosedError):
        complete(engine, [5])
    engine.close()


def test_a_model_that_is_closed_under_an_idle_engine(exact_path: Path) -> None:
    model = Model(exact_path, backend="cpu")
    engine = made(model)
    complete(engine, [5])
    model.close()
    with pytest.raises(ClosedError):
        complete(engine, [5])
    engine.close()


def test_an_engine_that_is_dropped(tiny_llama: Model) -> None:
    engine = made(tiny_llama)
    complete(engine, [5])
    context = weakref.ref(engine.context)
    del engine
    wait_for(lambda: gc.collect() >= 0 and context() is None)


def test_a_stream_keeps_its_engine(tiny_llama: Model) -> None:
    engine = made(tiny_llama)
    stream = engine.create_completion([5], max_tokens=8, stream=True, temperature=0)
    view = engine.with_options(priority=1)
    del engine
    gc.collect()
    assert list(stream)
    assert complete(view, [5])


def test_what_is_left_after_much_use(tiny_llama: Model) -> None:
    """Nothing: the fixtures count native objects and threads."""
    for _ in range(5):
        with engine_on(tiny_llama) as engine:
            for number in range(5):
                complete(engine, [5 + number], n=3, grammar='root ::= "a"+', ignore_eos=False)
                next(engine.create_completion([5], stream=True, **ENDLESS))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_fork(tiny_llama: Model) -> None:
    with engine_on(tiny_llama) as engine:
        stream = engine.create_completion([5], stream=True, **ENDLESS)
        next(stream)

        def child() -> list[str]:
            seen = []
            for use in (lambda: complete(engine, [5]), lambda: list(stream), engine.check_room):
                try:
                    use()
                except ForkedError:
                    seen.append("forked")
            engine.stats()
            engine.close(timeout=None)
            return seen

        assert _in_fork(child) == ["forked"] * 3
        assert complete(engine, [5])
        stream.close()


@pytest.mark.alone  # Ctrl-C in pytest's own process, which must not be a worker of pytest-xdist
def test_ctrl_c_in_a_thread_that_waits(tiny_llama: Model) -> None:
    with engine_on(tiny_llama) as engine:
        gate = Gate()

        def press() -> None:
            assert gate.entered.wait(HANG_SECONDS)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press).start()
        with pytest.raises(KeyboardInterrupt):
            complete(engine, [5], logits_processor=gate, **ENDLESS)
        gate.open()
        assert settled(engine).totals.cancelled == 1


EXIT = """
import sys, threading, time
import llamacffi
model = llamacffi.Model(sys.argv[1], backend="cpu")
engine = llamacffi.Engine(model, n_parallel=2, n_ctx=256, n_threads=1)
def ask():
    try:
        while True:
            engine.create_completion([5], max_tokens=250, ignore_eos=True)
    except llamacffi.errors.ClosedError:
        print("told", flush=True)
threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
stream = engine.create_completion([6], max_tokens=250, ignore_eos=True, stream=True)
for thread in threads:
    thread.start()
next(stream)
print("leaving", flush=True)
if sys.argv[2] == "error":
    raise SystemExit(3)
"""


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("error", 3)])
def test_the_interpreters_exit(exact_path: Path, how: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT, str(exact_path), how],
        capture_output=True, text=True, timeout=HANG_SECONDS, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "leaving" in done.stdout
    assert "Traceback" not in done.stderr
    assert "Fatal" not in done.stderr


# -- a storm --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "seed"), [("llama", 1), ("llama", 2), ("gemma3", 3), ("jamba", 4)]
)
def test_a_storm(tiny_models: dict[str, Model], architecture: str, seed: int) -> None:
    """Random requests that come, go, fail and are late: each ends once, and nothing is left."""
    model = tiny_models[architecture]
    bad = 77

    def poison(batch: Batch, decode: Any) -> None:
        if bad in batch.tokens:
            raise DecodeError("injected")
        decode(batch)

    def client(number: int) -> list[str]:
        dice = random.Random(f"{seed} {number}")
        seen = []
        for _ in range(25):
            shared = dice.choice([0, 10, 40, 90])
            prompt = [*[5 + place % 40 for place in range(shared)], 50 + dice.randrange(20)]
            fate = dice.random()
            if fate < 0.1:
                prompt.append(bad)
            asked: dict[str, Any] = {
                "max_tokens": dice.choice([1, 5, 20, 60]), "n": dice.choice([1, 1, 1, 3]),
                "seed": dice.randrange(99), "temperature": dice.choice([0.0, 1.0]),
                "logit_bias": {bad: False},
            }  # fmt: skip
            if fate > 0.9:
                asked["logits_processor"] = lambda tokens, logits: 1 // 0
            llm = engine.with_options(
                priority=dice.randrange(3), timeout=dice.choice([None, None, 0.001, 0.05])
            )
            try:
                stream = llm.create_completion(prompt, **asked, stream=True)
                if 0.1 < fate < 0.4:
                    for _ in range(dice.randrange(5)):
                        next(stream, None)
                    del stream
                    seen.append("left")
                else:
                    list(stream)
                    seen.append("done")
            except (BusyError, DeadlineError, DecodeError, ZeroDivisionError) as error:
                seen.append(type(error).__name__)
        return seen

    with engine_on(model, n_parallel=3, n_queue_max=4) as engine:
        with decoding(engine, poison):
            running = Running()
            for number in range(6):
                running.start(lambda n=number: client(n))
            seen = [outcome for outcomes in running.join() for outcome in outcomes]
            assert len(seen) == 6 * 25
            assert {"done", "left", "DecodeError"} <= set(seen)
            settled(engine)
        # The memory is what the engine believes: what it continues is what it computes anew.
        memory = engine.context.memory
        for sequence in range(engine.context.n_seq_max):
            known = memory.tokens(sequence)
            assert len(known) == memory.position_max(sequence) + 1
        prompt = [5 + place % 40 for place in range(90)]
        again = text_of(complete(engine, [*prompt, 50], logit_bias={bad: False}))
    with engine_on(model, n_parallel=1) as fresh:
        assert text_of(complete(fresh, [*prompt, 50], logit_bias={bad: False})) == again


def test_the_engine_after_llama_on_one_model(exact_llama: Llama) -> None:
    """A model may have an engine and other contexts at a time."""
    with engine_on(exact_llama.model) as engine:
        wanted = text_of(complete(exact_llama, [5, 6]))
        assert text_of(complete(engine, [5, 6])) == wanted
        assert engine.branch([5, 6]).generate(2, sampling=SamplingParams(temperature=0))
