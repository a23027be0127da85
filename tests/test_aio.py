"""The mechanism below the asyncio front ends: threads that end, streams, contexts, exceptions."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from llamacffi import Model
from llamacffi.aio import READ_AHEAD, AsyncFront, Stream, awaited, plain, run, streamed
from llamacffi.call import ABANDONED_SECONDS, check_cancelled, current_call
from llamacffi.errors import CancelledError
from llamacffi.hub.progress import reporting
from tests.worker_threads import HANG_SECONDS, in_loop, no_worker_left, workers

T = TypeVar("T")


@pytest.fixture(autouse=True)
def no_threads() -> Iterator[None]:
    yield
    no_worker_left()


async def listed(stream: Stream[T]) -> list[T]:
    return [item async for item in stream]


def forever(seen: list[object] | None = None) -> Iterator[int]:
    """Counts without end, and notes that it was closed."""
    number = 0
    try:
        while True:
            yield number
            number += 1
    finally:
        if seen is not None:
            seen.append("closed")


def until_cancelled() -> None:
    """What a long call does."""
    while True:
        check_cancelled()
        time.sleep(0.001)


def wait() -> Iterator[int]:
    yield 1
    until_cancelled()


# -- calls ----------------------------------------------------------------------------------------


def test_a_call_runs_in_a_thread_that_ends() -> None:
    async def main() -> None:
        found = await run(lambda a, b=0: (a, b, threading.get_ident()), 1, b=2)
        assert found[:2] == (1, 2)
        assert found[2] != threading.get_ident()
        assert workers() == []

    in_loop(main)
    in_loop(main)  # in a loop of its own


def test_an_exception_comes_with_its_traceback() -> None:
    def fail_below() -> None:
        raise KeyError("no")

    async def main() -> None:
        with pytest.raises(KeyError) as caught:
            await run(fail_below)
        names = [frame.name for frame in traceback.extract_tb(caught.tb)]
        assert "fail_below" in names
        assert "main" in names

    in_loop(main)


@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration, asyncio.CancelledError])
def test_exceptions_that_mean_something_to_coroutines(error: type[BaseException]) -> None:
    """None ends the loop or hangs; those that end iterators become errors, as in generators."""

    def fail() -> None:
        raise error("no")

    async def main() -> None:
        with pytest.raises((RuntimeError, error)):
            await asyncio.create_task(run(fail))

    in_loop(main)


def test_context_variables_are_carried_into_the_worker() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    def count() -> Iterator[str]:
        for _ in range(20):
            yield variable.get()

    async def main() -> None:
        variable.set("here")
        assert await run(variable.get) == "here"
        stream = Stream(count)
        variable.set("there")
        assert set(await listed(stream)) == {"here"}
        assert current_call() is None

    in_loop(main)


def test_a_cancelled_call_ends_before_its_task() -> None:
    seen: list[str] = []

    def work() -> None:
        try:
            until_cancelled()
        finally:
            time.sleep(0.2)  # as an operation of the compute graph that is still to end
            seen.append("over")

    async def main() -> None:
        task = asyncio.create_task(run(work))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0.05)
        task.cancel()  # impatient
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["over"]
        assert workers() == []

    in_loop(main)


def test_wait_for() -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(run(until_cancelled), 0.05)
        assert workers() == []

    in_loop(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")
def test_timeouts_and_task_groups() -> None:
    async def main() -> None:
        if sys.version_info >= (3, 11):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await run(until_cancelled)
            with pytest.raises(Exception, match="unhandled errors") as caught:
                async with asyncio.TaskGroup() as group:
                    group.create_task(run(until_cancelled))
                    group.create_task(listed(Stream(forever)))
                    group.create_task(run(int, "x"))
            assert [type(e) for e in getattr(caught.value, "exceptions", ())] == [ValueError]
        assert workers() == []

    in_loop(main)


def test_several_loops_in_several_threads() -> None:
    found: list[int] = []

    async def main() -> None:
        found.append(sum(await asyncio.gather(*(run(abs, -n) for n in range(10)))))

    threads = [threading.Thread(target=in_loop, args=(main,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_SECONDS)
    assert found == [45] * 4


# -- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("read_ahead", [0, 1, 2, READ_AHEAD, 1000])
def test_a_stream_gives_what_the_iterator_gives(read_ahead: int) -> None:
    async def main() -> None:
        stream = Stream(lambda: iter(range(100)), read_ahead)
        assert await listed(stream) == list(range(100))
        assert await listed(stream) == []

    in_loop(main)


def test_a_slow_reader_is_not_run_ahead_of() -> None:
    made: list[int] = []

    def count() -> Iterator[int]:
        for number in range(30):
            made.append(number)
            yield number

    async def main() -> None:
        ahead = []
        async for number in Stream(count):
            for _ in range(20):
                await asyncio.sleep(0.001)
            ahead.append(len(made) - number - 1)
            if ahead[-1] == READ_AHEAD:
                assert workers() == []  # nothing to do, so there is no thread
        assert len(ahead) == 30
        assert 0 < max(ahead) <= READ_AHEAD

    in_loop(main)


def test_items_come_before_the_exception() -> None:
    def count() -> Iterator[int]:
        yield from range(3)
        raise KeyError("no")

    async def main() -> None:
        stream = Stream(count)
        assert [await stream.__anext__() for _ in range(3)] == [0, 1, 2]
        with pytest.raises(KeyError):
            await stream.__anext__()
        assert await listed(stream) == []

    in_loop(main)


def test_an_iterator_that_cannot_be_made() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="invalid literal"):
            await listed(Stream(lambda: iter(range(int("x")))))

    in_loop(main)


def test_a_stream_begins_with_its_first_item() -> None:
    async def main() -> None:
        stream = Stream(forever)
        await asyncio.sleep(0.01)
        assert workers() == []
        assert await stream.__anext__() == 0

    in_loop(main)


def test_closing_a_stream() -> None:
    async def main() -> None:
        seen: list[object] = []
        stream = Stream(lambda: forever(seen))
        assert await stream.__anext__() == 0
        await stream.aclose()
        assert seen == ["closed"]
        assert workers() == []
        await stream.aclose()
        assert await listed(stream) == []
        async with Stream(lambda: forever(seen)) as other:
            assert await other.__anext__() == 0
        assert seen == ["closed"] * 2

    in_loop(main)


def test_an_exception_while_closing() -> None:
    def count() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            raise KeyError("no")

    async def main() -> None:
        stream = Stream(count)
        await stream.__anext__()
        with pytest.raises(KeyError):
            await stream.aclose()
        assert workers() == []

    in_loop(main)


def test_leaving_a_stream() -> None:
    async def main() -> None:
        seen: list[object] = []
        async for number in Stream(lambda: forever(seen)):
            if number == 10:
                break
        deadline = time.monotonic() + HANG_SECONDS
        while not seen and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        assert seen == ["closed"]

    in_loop(main)


def test_a_cancelled_reader_ends_the_stream() -> None:
    async def main() -> None:
        stream = Stream(wait)
        assert await stream.__anext__() == 1
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(stream.__anext__(), 0.05)
        assert workers() == []
        with pytest.raises(CancelledError, match="cancelled"):
            await stream.__anext__()
        assert await listed(stream) == []

    in_loop(main)


def test_two_readers_share_a_stream() -> None:
    async def main() -> None:
        stream = Stream(lambda: iter(range(50)))
        found = await asyncio.gather(listed(stream), listed(stream))
        assert sorted(found[0] + found[1]) == list(range(50))

    in_loop(main)


def test_the_loop_ends_with_a_stream_open() -> None:
    kept: list[Stream[int]] = []
    seen: list[object] = []

    async def main() -> None:
        kept.append(Stream(lambda: forever(seen)))
        assert await kept[0].__anext__() == 0

    in_loop(main)
    no_worker_left()  # while the stream is still there
    kept.clear()
    assert seen == ["closed"]


def test_the_loop_is_closed_with_a_reader_waiting(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio itself logs that a task was pending; no warning, and no thread."""

    def start(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(work())
        loop.run_until_complete(asyncio.sleep(0.05))
        assert not task.done()
        loop.close()

    async def read() -> None:
        async with Stream(wait) as stream:
            await listed(stream)

    start(lambda: run(until_cancelled))
    start(read)
    gc.collect()
    no_worker_left()
    assert "pending" in caplog.text


def test_the_time_after_which_a_reader_has_left_bears_wait_for() -> None:
    assert ABANDONED_SECONDS >= 0.5


@pytest.mark.parametrize("progress", [False, True, lambda done, total: None])
def test_a_download_is_cancelled(progress: Any) -> None:
    def download() -> None:
        with reporting(progress, "model") as report:
            while True:
                report(1, None)
                time.sleep(0.001)

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(run(download), 0.05)
        assert workers() == []

    in_loop(main)


# -- front ends and contexts ----------------------------------------------------------------------


class Counter:
    """As a front end that blocks."""

    def count(self, end: int, *, start: int = 0) -> Iterator[int]:
        """Count."""
        yield from range(start, end)

    def total(self, *numbers: int) -> int:
        return sum(numbers)


class AsyncCounter(AsyncFront[Counter]):
    count = streamed(Counter.count)
    total = awaited(Counter.total)
    total_now = plain(Counter.total)


def test_a_front_end_is_made_of_another() -> None:
    async def main() -> None:
        counter = AsyncCounter(Counter())
        assert await listed(counter.count(5, start=2)) == [2, 3, 4]
        assert await counter.total(1, 2) == counter.total_now(1, 2) == 3
        with pytest.raises(TypeError):
            await counter.total(wrong=1)  # type: ignore[call-arg]  # that is tested

    in_loop(main)
    assert AsyncCounter.count.__doc__ == "Count."


def test_a_decode_is_cancelled_and_the_next_one_is_not(model: Model) -> None:
    async def main() -> None:
        with model.context(n_ctx=2048, n_threads=1) as context:
            for seconds in (0.0, 0.01, 0.1, 0.3):
                task = asyncio.create_task(run(context.decode_tokens, [4] * 2000))
                await asyncio.sleep(seconds)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert context.memory.position_max() == -1
                await run(context.decode_tokens, [1, 2, 3])
                context.decode_tokens([5])
                assert context.memory.tokens() == [1, 2, 3, 5]
                context.memory.clear()

    in_loop(main)


def test_a_cancel_that_comes_too_late_hits_nobody(model: Model) -> None:
    async def main() -> None:
        with model.context(n_ctx=256, n_threads=1) as context:
            for step in range(40):
                task = asyncio.create_task(run(context.decode_tokens, [5]))
                await asyncio.sleep(step * 0.0005)
                task.cancel()
                await asyncio.wait([task])
                context.decode_tokens([6])

    in_loop(main)
