"""Engines in tests: made on tiny models, stopped in the middle, and looked at when all is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llamacffi import Engine, Llama, Model
from llamacffi.batch import Batch
from llamacffi.engine import EngineStats

HANG_SECONDS = 60.0  # longer than anything takes here
# Where cells lie decides in which order they are added up: that shows in half precision.
EXACT: dict[str, Any] = {"type_k": "f32", "type_v": "f32"}
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}


@contextmanager
def engine_on(model: Model, **parameters: Any) -> Iterator[Engine]:
    """An engine that is found idle at its end, and then closed."""
    given = {"n_parallel": 4, "n_ctx": 256, "n_threads": 1, **parameters}
    engine = Engine(model, flash_attention="off", **EXACT, **given)
    try:
        yield engine
        settled(engine)
    finally:
        engine.close()


def settled(engine: Engine) -> EngineStats:
    """Wait until nothing runs; then each request has ended once, and each sequence is idle."""
    wait_for(lambda: not engine.stats().n_running and not engine.stats().n_waiting)
    stats = engine.stats()
    if not engine.closed:
        assert stats.n_idle_sequences == engine.context.n_seq_max
    totals = stats.totals
    ended = totals.finished + totals.failed + totals.cancelled + totals.expired
    assert ended == totals.requests
    return stats


def wait_for(condition: Callable[..., bool]) -> None:
    """Wait for what another thread does; a hang is an error."""
    deadline = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.001)


def complete(llm: Any, prompt: Any, **parameters: Any) -> dict[str, Any]:
    result = llm.create_completion(prompt, **{**GREEDY, **parameters})
    assert isinstance(result, dict)
    return result


def text_of(result: dict[str, Any]) -> str:
    return str(result["choices"][0]["text"])


def alone(llama: Llama, prompt: Any, **parameters: Any) -> dict[str, Any]:
    """What `Llama` answers, with nothing in its memory."""
    llama.reset()
    return complete(llama, prompt, **parameters)


class Gate:
    """A logits processor that holds the engine's thread until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()

    def __call__(self, tokens: Any, logits: Any) -> Any:
        self.entered.set()
        assert self._open.wait(HANG_SECONDS)
        return logits

    def open(self) -> None:
        self._open.set()


class Running:
    """Calls in threads of their own."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self.results: dict[int, Any] = {}

    def start(self, call: Callable[..., Any]) -> int:
        """Make a call in a thread; returns the number of its result."""
        number = len(self._threads)

        def work() -> None:
            try:
                self.results[number] = call()
            except BaseException as error:
                self.results[number] = error.with_traceback(None)

        thread = threading.Thread(target=work, name=f"caller {number}")
        self._threads.append(thread)
        thread.start()
        return number

    def join(self) -> list[Any]:
        """Wait for all; returns their results, or what they raised."""
        for thread in self._threads:
            thread.join(HANG_SECONDS)
            assert not thread.is_alive(), f"{thread.name} waits forever"
        return [self.results[number] for number in range(len(self._threads))]


def together(calls: Sequence[Callable[..., Any]]) -> list[Any]:
    """Make calls in threads, all at the same time."""
    running = Running()
    for call in calls:
        running.start(call)
    return running.join()


@contextmanager
def decoding(engine: Engine, instead: Callable[[Batch, Callable[[Batch], None]], None]) -> Any:
    """Let a function stand between the engine and its context: it may fail, or look."""
    context = engine.context
    real = context.decode
    context.decode = lambda batch: instead(batch, real)  # type: ignore[method-assign]  # it is the fault
    try:
        yield
    finally:
        del context.decode


def held(engine: Engine, calls: Sequence[Callable[..., Any]]) -> list[Any]:
    """Make calls that are all in the line before the engine looks at any of them."""
    gate, running = Gate(), Running()
    running.start(lambda: complete(engine, [1], max_tokens=1, logits_processor=gate))
    assert gate.entered.wait(HANG_SECONDS)
    for count, call in enumerate(calls, 1):
        running.start(call)
        wait_for(lambda count=count: engine.stats().n_waiting >= count)
    gate.open()
    return running.join()[1:]
