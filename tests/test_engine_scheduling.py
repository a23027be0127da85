"""Who is computed when: order, priorities, fairness, limits of the line, deadlines, cancelling."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from llamacffi import Engine, Model
from llamacffi.batch import Batch
from llamacffi.engine.pace import LEAST_ROWS
from llamacffi.errors import BusyError, CancelledError, DeadlineError
from tests.engines import (
    HANG_SECONDS,
    Gate,
    Running,
    complete,
    decoding,
    engine_on,
    held,
    settled,
    text_of,
    wait_for,
)

LONG = [5 + place % 60 for place in range(180)]


def steps_of(engine: Engine, work: Callable[[], Any]) -> list[list[tuple[int, int]]]:
    """For each decode while a function runs, how many rows each sequence had."""
    seen: list[list[tuple[int, int]]] = []

    def look(batch: Batch, decode: Callable[[Batch], None]) -> None:
        sequences = [sequence for (sequence,) in batch.sequences]
        seen.append([(key, len(list(rows))) for key, rows in itertools.groupby(sequences)])
        decode(batch)

    with decoding(engine, look):
        work()
    return seen


@pytest.mark.parametrize(
    ("parameters", "rows"),
    [({}, range(LEAST_ROWS, LEAST_ROWS + 1)), ({"echo": True, "logprobs": 1}, range(1, 33))],
    ids=["computed", "scored"],
)
def test_a_long_prompt_does_not_stop_a_stream(
    tiny_llama: Model, parameters: dict[str, Any], rows: range
) -> None:
    """Each of its pieces is computed together with a token of the others."""
    # The smallest pieces; n_batch bounds the first one, before it is known how long they take.
    with engine_on(tiny_llama, step_seconds=1e-9, n_batch=LEAST_ROWS + 2) as engine:
        calls = [
            lambda: complete(engine, [7], max_tokens=40),
            lambda: complete(engine, LONG, max_tokens=1, **parameters),
        ]
        seen = steps_of(engine, lambda: held(engine, calls))
    pieces = [step for step in seen if max(count for _, count in step) > 2]
    assert sum(max(count for _, count in step) for step in pieces) >= len(LONG) - 20
    assert all(len(step) == 2 and min(step, key=_count)[1] == 1 for step in pieces)
    assert all(max(step, key=_count)[1] in rows for step in pieces[1:-1])


def _count(part: tuple[int, int]) -> int:
    return part[1]


def order_of(engine: Engine, requests: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """In which order requests are served that were all made while the engine was held."""
    order: list[str] = []

    def call(name: str, options: dict[str, Any]) -> None:
        def note(tokens: Any, logits: Any) -> Any:
            order.append(name)
            return logits

        complete(engine.with_options(**options), name, max_tokens=1, logits_processor=note)

    held(
        engine,
        [lambda name=name, options=options: call(name, options) for name, options in requests],
    )
    return order


def test_first_come_first_served(tiny_llama: Model) -> None:
    with engine_on(tiny_llama, n_parallel=1) as engine:
        assert order_of(engine, [(name, {}) for name in "abcdef"]) == list("abcdef")


def test_priorities(tiny_llama: Model) -> None:
    with engine_on(tiny_llama, n_parallel=1) as engine:
        requests = [("a", {}), ("b", {"priority": -1}), ("c", {"priority": 2}), ("d", {}),
                    ("e", {"priority": 2})]  # fmt: skip
        assert order_of(engine, requests) == list("ceadb")


def test_who_waits_counts_for_more_with_time(
    tiny_llama: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamacffi.engine.request.AGING_SECONDS", 1e-9)
    with engine_on(tiny_llama, n_parallel=1) as engine:
        requests = [("a", {"priority": 0}), ("b", {"priority": 5}), ("c", {"priority": 9})]
        assert order_of(engine, requests) == list("abc")


def test_places_are_shared_out_among_all(tiny_llama: Model) -> None:
    """A place that becomes free goes to the next one, while the others run on."""
    with engine_on(tiny_llama, n_parallel=3) as engine:
        calls = [lambda n=n: complete(engine, [n], max_tokens=5 + n) for n in range(5, 15)]
        results = held(engine, calls)
        assert [r["usage"]["completion_tokens"] for r in results] == list(range(10, 20))
        totals = settled(engine).totals
    # One after the other would be more than 145 steps.
    assert totals.steps < 80


def test_the_line_is_bounded_and_takes_all_or_none(tiny_llama: Model) -> None:
    with engine_on(tiny_llama, n_parallel=2, n_queue_max=3) as engine:
        gate, running = Gate(), Running()
        running.start(lambda: complete(engine, [5], n=2, logits_processor=gate))
        assert gate.entered.wait(HANG_SECONDS)
        running.start(lambda: complete(engine, [6], n=2))
        wait_for(lambda: engine.stats().n_waiting == 2)
        with pytest.raises(BusyError, match="n_queue_max=3"):
            complete(engine, [7], n=2)
        assert engine.stats().n_waiting == 2
        engine.check_room()
        running.start(lambda: complete(engine, [8]))
        wait_for(lambda: engine.stats().n_waiting == 3)
        with pytest.raises(BusyError):
            engine.check_room()
        gate.open()
        assert [len(result["choices"]) for result in running.join()] == [2, 2, 1]
        assert settled(engine).totals.requests == 5


def test_who_finds_a_place_does_not_count_as_waiting(tiny_llama: Model) -> None:
    with engine_on(tiny_llama, n_parallel=4, n_queue_max=1) as engine:
        for _ in range(3):
            assert len(complete(engine, [5], n=5)["choices"]) == 5
            with pytest.raises(BusyError):
                complete(engine, [5], n=6)


# -- deadlines ------------------------------------------------------------------------------------


def test_a_deadline_while_running(tiny_llama: Model) -> None:
    with engine_on(tiny_llama) as engine:
        gate = Gate()
        running = Running()
        hurried = engine.with_options(timeout=0.05)
        running.start(lambda: complete(hurried, [5], max_tokens=50, logits_processor=gate))
        running.start(lambda: complete(engine, [6]))
        assert gate.entered.wait(HANG_SECONDS)
        time.sleep(0.06)
        gate.open()
        late, other = running.join()
        assert isinstance(late, DeadlineError)
        assert isinstance(late, TimeoutError)
        assert "0.05 s: 1 tokens" in str(late)
        assert other["usage"]["completion_tokens"] == 8
        assert settled(engine).totals.expired == 1


def test_a_deadline_while_waiting(tiny_llama: Model) -> None:
    with engine_on(tiny_llama, n_parallel=1) as engine:
        hurried = engine.with_options(timeout=1e-6)
        late, other = held(engine, [lambda: complete(hurried, [5]), lambda: complete(engine, [6])])
        assert isinstance(late, DeadlineError)
        assert "0 tokens" in str(late)
        assert other["usage"]["completion_tokens"] == 8


def test_a_late_choice_ends_the_others(tiny_llama: Model) -> None:
    with engine_on(tiny_llama, n_parallel=2) as engine:
        with pytest.raises(DeadlineError):
            complete(engine.with_options(timeout=1e-6), [5], n=5, max_tokens=100)
        totals = settled(engine).totals
        assert totals.expired + totals.cancelled == 5


# -- leaving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["closed", "dropped", "never begun", "raised at"])
def test_a_stream_that_is_left_frees_its_place(tiny_llama: Model, how: str) -> None:
    with engine_on(tiny_llama) as engine:
        stream = engine.create_completion([5], max_tokens=200, ignore_eos=True, stream=True)
        if how != "never begun":
            next(stream)
        if how == "closed":
            stream.close()
        elif how == "raised at":
            with pytest.raises(ZeroDivisionError):
                stream.throw(ZeroDivisionError())
        del stream
        totals = settled(engine).totals
        assert totals.cancelled == 1
        assert totals.completion_tokens < 200


def test_a_waiting_request_can_be_cancelled(tiny_llama: Model) -> None:
    with engine_on(tiny_llama, n_parallel=1) as engine:
        gate, running = Gate(), Running()
        running.start(lambda: complete(engine, [5], logits_processor=gate))
        assert gate.entered.wait(HANG_SECONDS)
        stream = engine.create_completion([6], stream=True)
        assert engine.stats().n_waiting == 1
        stream.close()
        gate.open()
        running.join()
        assert settled(engine).totals.cancelled == 1


def test_who_still_waits_for_a_cancelled_request_is_told(tiny_llama: Model) -> None:
    from llamacffi import SamplingParams
    from llamacffi.engine.delivery import Reading
    from llamacffi.generation import Generation

    with engine_on(tiny_llama) as engine:
        chain = SamplingParams(temperature=0).chain(tiny_llama)
        generation = Generation(
            tiny_llama.vocab, chain, [5], max_tokens=200, ignore_eos=True
        )  # fmt: skip
        reading = Reading(engine, [generation])
        next(reading)
        engine.cancel(reading._requests)
        with pytest.raises(CancelledError):
            list(reading)


def test_statistics_do_not_wait_for_a_decode(tiny_llama: Model) -> None:
    with engine_on(tiny_llama) as engine:
        gate = Gate()
        running = Running()

        def hold(batch: Batch, decode: Callable[[Batch], None]) -> None:
            with engine.context._handle.lock:
                gate([], None)
                decode(batch)

        with decoding(engine, hold):
            running.start(lambda: complete(engine, [5]))
            assert gate.entered.wait(HANG_SECONDS)
            stats = engine.stats()
            assert (stats.n_running, stats.n_waiting) == (1, 0)
            gate.open()
            running.join()
        totals = settled(engine).totals
        assert (totals.requests, totals.finished, totals.completion_tokens) == (1, 1, 8)
        assert text_of(complete(engine, [5]))
