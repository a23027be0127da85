"""Owned native objects: one owner, closed once, in any order, never used after that.

A `Handle` holds the pointer; the public object (Model, Context, ...) holds the handle. Freeing a
parent frees its children first, so a model can be closed while contexts of it exist. `keep_alive`
ties the handle to its public object, so that a forgotten one is freed when it is collected or,
latest, when the interpreter exits (where Python gives no order, and the children's list does).
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llamacffi.errors import ClosedError, ForkedError, NativeError, RemoteDeviceError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Handle", "Owner", "live_handles"]

# A daemon thread may sit in a native call while the interpreter exits: how long to wait for it.
EXIT_TIMEOUT_SECONDS = 5.0

_live: Counter[str] = Counter()
# Guards the counts, and who gets a pointer to free. Re-entrant: a garbage collection inside may
# close other handles.
_live_lock = threading.RLock()
_forks = 0  # how many forks lie between the first process and this one


def _after_fork_in_child() -> None:
    global _forks, _live_lock
    _forks += 1
    _live_lock = threading.RLock()  # another thread of the parent may have held it
    _live.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def live_handles() -> dict[str, int]:
    """How many native objects of each kind this process owns now, for leak tests.

    Returns:
        A mapping from kind ("model", "context", ...) to a count; kinds without any are absent.
    """
    with _live_lock:
        return {kind: count for kind, count in _live.items() if count}


class Handle:
    """One owned native object.

    Args:
        kind: What it is, for messages and counts: "model", "context", ...
        pointer: The cffi pointer; not NULL.
        destroy: Frees it. Called once at most, with the pointer.
        parent: The handle that must outlive this one.
        interrupt: Asks a native call that runs in another thread to stop soon.
    """

    __slots__ = (
        "__weakref__",
        "_broken",
        "_children",
        "_closing",
        "_destroy",
        "_forks",
        "_interrupt",
        "_lost",
        "_parent",
        "_pins",
        "_pointer",
        "kind",
        "lock",
    )

    def __init__(
        self,
        kind: str,
        pointer: Any,
        destroy: Callable[[Any], object],
        parent: Handle | None = None,
        interrupt: Callable[[], object] | None = None,
    ) -> None:
        self.kind = kind
        self.lock = threading.RLock()
        self._pointer = pointer
        self._destroy = destroy
        self._interrupt = interrupt
        self._parent = parent
        self._children: dict[Handle, None] = {}
        self._pins: dict[int, weakref.ref[Any]] = {}
        self._closing = False
        self._broken: str | None = None
        self._lost: str | None = None
        self._forks = _forks
        with _live_lock:
            _live[kind] += 1
        if parent is not None:
            parent._children[self] = None

    @property
    def pointer(self) -> Any:
        """The cffi pointer.

        Raises:
            ClosedError: The object was closed.
            ForkedError: This process is a fork of the one that made it.
            NativeError: An assertion failed inside llama.cpp, and the object was given up.
            RemoteDeviceError: A server that it needs is lost.
        """
        if self._closing or self._forks != _forks or self._broken is not None or self._lost:
            raise self._refusal()
        return self._pointer

    @property
    def closed(self) -> bool:
        """Whether close() was called or has been done by the parent's."""
        return self._closing

    @property
    def broken(self) -> bool:
        """Whether the object was given up: after a failed assertion, or with a server."""
        return self._broken is not None or self._lost is not None

    def _refusal(self) -> Exception:
        if self._forks != _forks:
            return ForkedError(
                f"This {self.kind} was made before os.fork() and belongs to the parent process: "
                "its threads did not come along. Create a new one in the child, or start "
                "workers with multiprocessing's 'spawn' method."
            )
        if self._lost is not None and not self._closing:
            return RemoteDeviceError(
                f"This {self.kind} was given up with a server that it needs. {self._lost}. Close "
                "the model, and load it again when the server is back."
            )
        if self._broken is not None:
            return NativeError(
                f"This {self.kind} was given up after a failure inside llama.cpp: {self._broken}. "
                "Close it and create a new one."
            )
        return ClosedError(f"This {self.kind} is closed. Create a new one to go on.")

    def keep_alive(self, owner: object) -> None:
        """Close this handle when `owner` is collected, or at the interpreter's exit."""
        weakref.finalize(owner, self.close)

    def pin(self, exported: object) -> None:
        """Put off freeing until `exported`, a view into the native memory, is gone."""
        reference = weakref.ref(exported, self._unpin)
        self._pins[id(reference)] = reference  # by id: an array cannot be hashed

    @property
    def pinned(self) -> bool:
        """Whether views into the native memory are alive."""
        return bool(self._pins)

    def _unpin(self, reference: weakref.ref[Any]) -> None:
        self._pins.pop(id(reference), None)
        if self._closing and not self._pins:
            self._free()

    def give_up(self, reason: str) -> None:
        """Never touch the object again: not even to free it, since its state is unknown."""
        self._broken = reason
        handle: Handle | None = self
        while handle is not None:  # its threads may still read the parents' memory
            handle._destroy = _leave
            handle = handle._parent

    def lose(self, reason: str) -> None:
        """Use neither it nor its relatives again, whose server is lost; freeing them is safe."""
        root = self
        while root._parent is not None:
            root = root._parent
        root._mark_lost(reason)

    def _mark_lost(self, reason: str) -> None:
        self._lost = self._lost or reason
        for child in list(self._children):
            child._mark_lost(reason)

    def release(self) -> Any:
        """Give the ownership away: return the pointer, and never free it."""
        with self.lock:
            pointer, self._destroy = self.pointer, _leave
            self.close()
        return pointer

    def close(self) -> None:
        """Free the object; its children first. Safe to call twice, from any thread, at exit."""
        if self._forks != _forks:
            self._closing = True  # the parent process frees it
            return
        self._closing = True  # from here on other threads are refused
        if self._interrupt is not None:
            self._interrupt()
        # Children first and without our lock: a thread in a child may need it to finish. Then
        # again with it, for a child that was being made meanwhile.
        self._close_children()
        if not self.lock.acquire(timeout=EXIT_TIMEOUT_SECONDS if _exiting() else -1):
            return
        try:
            self._close_children()
            if not self._pins:
                self._free()
        finally:
            self.lock.release()

    def _close_children(self) -> None:
        for child in reversed(list(self._children)):
            child.close()

    def _free(self) -> None:
        with _live_lock:
            if any(child._pointer is not None for child in self._children):
                return  # a child is pinned: it calls again when it goes
            pointer, self._pointer = self._pointer, None
            if pointer is None:
                return
            _live[self.kind] -= 1
        self._destroy(pointer)
        parent, self._parent = self._parent, None
        if parent is not None:
            parent._children.pop(self, None)
            if parent._closing and not parent._pins:
                parent._free()


class Owner:
    """A public object with a handle: freed by `close()`, by `with`, when collected, or at exit."""

    _handle: Handle

    def close(self) -> None:
        """Free the native object, and first those that depend on it.

        Safe to call twice, from any thread; what runs in another thread is cancelled first.
        """
        self._handle.close()

    @property
    def closed(self) -> bool:
        """Whether close() was called, here or on what this object depends on."""
        return self._handle.closed

    @property
    def broken(self) -> bool:
        """Whether it was given up: an assertion failed inside llama.cpp, or a server is lost."""
        return self._handle.broken

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _leave(pointer: Any) -> None:
    """Stands in for the destructor of an object that was given up."""


def _exiting() -> bool:
    return not threading.main_thread().is_alive()
