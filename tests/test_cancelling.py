"""A context and threads: cancelled and closed while it computes, turns, and threads of ggml."""

from __future__ import annotations

import threading

import pytest

from llamacffi import Context, Model
from llamacffi.errors import (
    CancelledError,
    ClosedError,
    ContextFullError,
    ContextInitError,
)
from tests.conftest import Continue


def test_cancelled_before(small: Context) -> None:
    small.decode_tokens([5])
    small.cancel()
    with pytest.raises(CancelledError):
        small.decode_tokens([6])
    assert small.memory.tokens() == [5]
    small.decode_tokens([6])
    assert small.memory.tokens() == [5, 6]


@pytest.mark.parametrize("in_thread", [False, True])
def test_cancelled_while_it_runs(
    model: Model, tokens: list[int], continue_greedily: Continue, in_thread: bool
) -> None:
    with model.context(n_ctx=4096, n_threads=1) as context:
        context.decode_tokens(tokens)
        timer = threading.Timer(0.2, context.cancel)
        errors: list[BaseException] = []

        def work() -> None:
            try:
                context.decode_tokens([5] * 4000)
            except CancelledError as error:
                errors.append(error)

        timer.start()
        if in_thread:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(60)
        else:
            work()
        timer.join()
        assert len(errors) == 1
        assert context.memory.tokens() == tokens
        assert context.memory.position_max() == len(tokens) - 1
        context.memory.remove(0, len(tokens) - 1)
        context.decode_tokens(tokens[-1:])
        assert model.vocab.detokenize(continue_greedily(context, 1)) == " Rome"


def test_closed_while_it_runs(model: Model) -> None:
    context = model.context(n_ctx=4096, n_threads=1)
    timer = threading.Timer(0.2, context.close)
    timer.start()
    with pytest.raises(ClosedError):
        context.decode_tokens([5] * 4000)
    timer.join()


def test_two_threads_take_turns(small: Context) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(40):
                small.decode_tokens([5, 6, 7])
        except ContextFullError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert small.memory.tokens() == [5, 6, 7] * (small.n_ctx_seq // 3)
    assert 1 <= len(errors) <= 3


def test_threads_of_the_computation(tiny_llama: Model) -> None:
    with tiny_llama.context(n_ctx=32, n_threads=2) as context:
        assert (context.n_threads, context.n_threads_batch) == (2, 2)
        context.set_threads(1)
        assert (context.n_threads, context.n_threads_batch) == (1, 1)
        context.set_threads(1, 2)
        assert (context.n_threads, context.n_threads_batch) == (1, 2)
        context.decode_tokens([5, 6])
        for count in (0, -1, 3, 10**6):
            with pytest.raises(ContextInitError):
                context.set_threads(count)
            with pytest.raises(ContextInitError):
                context.set_threads(1, count or -2)
