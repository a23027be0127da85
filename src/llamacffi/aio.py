"""Await blocking calls and iterators: a worker thread makes them, and ends with them.

There is no pool. A thread lives while there is something to compute for a coroutine that waits: a
stream that is not read has none, since its thread ends when it has read ahead far enough, and the
reader starts the next one. A cancelled coroutine ends after its thread.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from llamacffi.call import Call
from llamacffi.errors import CancelledError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncFront", "Stream", "awaited", "plain", "run", "streamed"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
W = TypeVar("W")
W_co = TypeVar("W_co", covariant=True)

READ_AHEAD = 4  # so many items a stream computes before they are asked for
CANCELLED = "The task that waited for this call was cancelled."
CLOSED = "This stream was closed."
ABANDONED = "This stream was dropped by its reader."


async def run(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Make a blocking call in a worker thread and wait for it.

    When the task is cancelled, what of llamacffi computes in the call is stopped, whichever object
    it is; the task ends when the thread has ended.

    Args:
        function: What to call; it sees the caller's context variables.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Returns:
        What it returned. What it raised is raised here.
    """

    def once() -> Iterator[R]:
        yield function(*args, **kwargs)

    async with Stream(once) as results:
        return await results.__anext__()


class Stream(AsyncIterator[T]):
    """A blocking iterator that is read with `async for`; a worker thread runs it.

    It may be left at any time: `await stream.aclose()`, `async with stream:`, or just forgetting
    it stops what computes. Cancelling the task that reads it ends the stream.

    Args:
        make: Returns the iterator; called in the worker, as is what it yields from.
        read_ahead: Most items that are computed before they are asked for.
    """

    def __init__(self, make: Callable[[], Iterator[T]], read_ahead: int = READ_AHEAD) -> None:
        self._worker = _Worker(make, read_ahead)
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next item.

        Raises:
            CancelledError: An earlier read was cancelled, or another call superseded this stream.
            Exception: What the iterator raised.
        """
        worker = self._worker
        worker.awaited()
        while not worker.items:
            if self._closed:
                raise StopAsyncIteration
            news = worker.bell.listen()
            worker.go_on()
            if worker.over and not worker.items:
                await worker.ended()
                worker.fail()
                raise StopAsyncIteration
            if not worker.items:
                try:
                    await news
                except asyncio.CancelledError:
                    await worker.stop(CANCELLED)
                    raise
                except BaseException:  # closed from outside: it may not wait
                    worker.call.cancel(CANCELLED)
                    raise
        item = worker.items.popleft()
        worker.go_on()
        worker.awaited()  # how long nobody has read counts from here
        return item

    async def aclose(self) -> None:
        """Stop what computes, and wait until its thread has ended. Safe to call twice."""
        self._closed = True
        await self._worker.stop(CLOSED)
        self._worker.fail(but_for=CancelledError)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is GeneratorExit:  # closed from outside: it may not wait
            self._worker.call.cancel(CLOSED)
        else:
            await self.aclose()

    def __del__(self) -> None:
        # Without a thread, the iterator ends here with the last reference; else the thread ends it.
        worker: _Worker[T] | None = getattr(self, "_worker", None)
        if worker is not None:
            worker.call.cancel(ABANDONED)


class _Worker(Generic[T]):
    """The thread's side of a stream, and what both sides share."""

    def __init__(self, make: Callable[[], Iterator[T]], read_ahead: int) -> None:
        self.call = Call()
        self.bell = _Bell()
        self.items: deque[T] = deque()
        self.over = False
        self._make: Callable[[], Iterator[T]] | None = make
        self._iterator: Iterator[T] | None = None
        self._error: BaseException | None = None
        self._read_ahead = max(1, read_ahead)
        self._context = copy_context()
        self.call.enter(self._context)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last: threading.Thread | None = None

    # -- in the event loop --------------------------------------------------------------------

    def awaited(self) -> None:
        """Note that the current task is the reader."""
        self.call.awaited_by(asyncio.current_task(), asyncio.get_running_loop())

    def go_on(self) -> None:
        """See to it that a thread computes, if there is something to compute."""
        with self._lock:
            enough = len(self.items) > self._read_ahead // 2 and not self.call.cancelled
            if self._thread is None and not self.over and not enough:
                # A daemon: should a program drop the loop and all, its exit must not wait for the
                # end of a text.
                thread = threading.Thread(target=self._work, name="llamacffi-aio", daemon=True)
                thread.start()
                self._last = self._thread = thread

    async def ended(self) -> None:
        """Wait until no thread is left, and only then let the task be cancelled."""
        cancelled: asyncio.CancelledError | None = None
        while self._thread is not None:
            news = self.bell.listen()
            if self._thread is None:
                break
            try:
                await news
            except asyncio.CancelledError as error:
                cancelled = error
        if self._last is not None:
            self._last.join()  # it has nothing left to do
            self._last = None
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                del cancelled

    async def stop(self, reason: str) -> None:
        """Stop the thread, have the iterator closed, and wait for both."""
        self.call.cancel(reason)
        self.items.clear()
        self.go_on()  # closing may take a lock, so not here
        await self.ended()
        self.items.clear()

    def fail(self, but_for: type[BaseException] | tuple[()] = ()) -> None:
        """Raise what ended the iterator, once."""
        error, self._error = self._error, None
        if error is None or isinstance(error, but_for):
            return
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    # -- in the thread ------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._rests():
                self._context.run(self._advance)
                self.bell.ring()
        finally:
            self.bell.ring()

    def _rests(self) -> bool:
        with self._lock:
            full = len(self.items) >= self._read_ahead and not self.call.cancelled
            if full or self.over:
                self._thread = None
                return True
            return False

    def _advance(self) -> None:
        try:
            self.call.check()
            if self._iterator is None:
                make, self._make = self._make, None  # it may hold what the iterator frees
                assert make is not None
                self._iterator = iter(make())
                del make
            self.items.append(next(self._iterator))
            return
        except StopIteration:
            pass
        except BaseException as error:  # carried over to the reader
            self._error = error
        iterator, self._iterator = self._iterator, None
        try:
            getattr(iterator, "close", _nothing)()
        except BaseException as error:
            self._error = error
        if self.call.cancelled and isinstance(self._error, CancelledError):
            # Of no interest is where it happened, and those frames hold native objects.
            self._error = self._error.with_traceback(None)
        self._make = None
        self.over = True


def _nothing() -> None:
    """The close() of an iterator that has none."""


class _Bell:
    """Rung by a thread, heard by coroutines, in whatever loops they run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listening: list[asyncio.Future[None]] = []

    def listen(self) -> asyncio.Future[None]:
        """A future that is done when the bell rings next."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._listening.append(future)
        return future

    def ring(self) -> None:
        """Wake all who listen."""
        with self._lock:
            listening, self._listening = self._listening, []
        for future in listening:
            with suppress(RuntimeError):  # its loop is closed
                future.get_loop().call_soon_threadsafe(_wake, future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# -- front ends -----------------------------------------------------------------------------------


class AsyncFront(Generic[W_co]):
    """What an asynchronous front end inherits: it wraps an object whose methods block.

    Its methods are made of those of the wrapped class, with the same parameters:

        ask = awaited(ChatSession.ask)
        stream = streamed(ChatSession.stream)
    """

    def __init__(self, wrapped: W_co) -> None:
        self._wrapped = wrapped


def awaited(
    method: Callable[Concatenate[W, P], R],
) -> Callable[Concatenate[AsyncFront[W], P], Coroutine[Any, Any, R]]:
    """A method that is awaited; see `run`."""

    @functools.wraps(method)
    async def call(self: AsyncFront[W], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await run(method, self._wrapped, *args, **kwargs)

    return call


def streamed(
    method: Callable[Concatenate[W, P], Iterator[T]],
) -> Callable[Concatenate[AsyncFront[W], P], Stream[T]]:
    """A method that returns an iterator, read with `async for`; it begins with the first item."""

    @functools.wraps(method)
    def call(self: AsyncFront[W], /, *args: P.args, **kwargs: P.kwargs) -> Stream[T]:
        return Stream(functools.partial(method, self._wrapped, *args, **kwargs))

    return call


def plain(
    method: Callable[Concatenate[W, P], R],
) -> Callable[Concatenate[AsyncFront[W], P], R]:
    """A method that takes no time, called as it is."""

    @functools.wraps(method)
    def call(self: AsyncFront[W], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self._wrapped, *args, **kwargs)

    return call
