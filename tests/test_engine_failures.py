"""A request that fails ends alone: decodes that fail, broken contexts, callbacks that raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llamacffi import Engine, Model
from llamacffi.batch import Batch
from llamacffi.engine import delivery
from llamacffi.errors import (
    ClosedError,
    ContextFullError,
    DecodeError,
    NativeError,
    SamplingError,
    UnsupportedError,
)
from tests.engines import (
    complete,
    decoding,
    engine_on,
    held,
    settled,
    text_of,
    together,
)

BAD = 77  # a token that nobody can decode
PROMPTS = [[5, 6, 7], [8] * 30, [9, 10], [11, 12, 13, 14]]


class Poison:
    """Fails the decodes in which a certain token is."""

    def __init__(self, fail: Callable[[], None]) -> None:
        self._fail = fail

    def __call__(self, batch: Batch, decode: Callable[[Batch], None]) -> None:
        if BAD in batch.tokens:
            self._fail()
        decode(batch)


def raising(error: type[Exception]) -> Callable[[], None]:
    def fail() -> None:
        raise error("injected")

    return fail


@pytest.mark.parametrize("error", [DecodeError, NativeError, ValueError])
@pytest.mark.parametrize("architecture", ["llama", "mamba"])
def test_only_the_guilty_one_fails(
    tiny_models: dict[str, Model], error: type[Exception], architecture: str
) -> None:
    with engine_on(tiny_models[architecture], n_parallel=6) as engine:
        bias = {"logit_bias": {BAD: False}}
        wanted = [text_of(complete(engine, prompt, **bias)) for prompt in PROMPTS]
        with decoding(engine, Poison(raising(error))):
            prompts = [*PROMPTS, [5, BAD, 6], [*[8] * 30, BAD]]
            calls = [lambda p=prompt: complete(engine, p, **bias) for prompt in prompts]
            *good, bad, worse = held(engine, calls)
        assert [text_of(result) for result in good] == wanted
        assert type(bad) is type(worse) is error
        assert settled(engine).totals.failed == 2


@pytest.mark.parametrize("architecture", ["llama", "mamba"])
def test_a_broken_context_is_renewed(tiny_models: dict[str, Model], architecture: str) -> None:
    """As after a failed assertion inside llama.cpp; the others begin anew in another context."""
    engine = Engine(tiny_models[architecture], n_parallel=5, n_ctx=256, n_threads=1)
    bias = {"logit_bias": {BAD: False}}
    wanted = [text_of(complete(engine, prompt, **bias)) for prompt in PROMPTS]
    contexts = [engine.context]
    make = engine._loop._make_context

    def remade() -> Any:
        context = make()
        contexts.append(context)
        poison(context)
        return context

    def poison(context: Any) -> None:
        real = context.decode

        def decode(batch: Batch) -> None:
            if BAD in batch.tokens:
                # give_up would leak the context, and with it the model of the other tests
                context._handle._broken = "injected"
                raise NativeError("injected")
            real(batch)

        context.decode = decode

    poison(engine.context)
    engine._loop._make_context = remade
    calls = [lambda p=prompt: complete(engine, p, **bias) for prompt in [*PROMPTS, [5, BAD, 6]]]
    *good, bad = held(engine, calls)
    assert isinstance(bad, NativeError)
    assert [text_of(result) for result in good] == wanted
    assert text_of(complete(engine, PROMPTS[0], **bias)) == wanted[0]
    assert len(contexts) == 3  # it broke with the others, and again alone
    settled(engine)
    engine.close()
    for context in contexts:
        context._handle._broken = None
        context.close()
        del context.decode


def test_a_context_that_cannot_be_renewed_ends_the_engine(tiny_llama: Model) -> None:
    engine = Engine(tiny_llama, n_parallel=2, n_ctx=64, n_threads=1)
    context = engine.context

    def broken(batch: Batch) -> None:
        context._handle._broken = "injected"
        raise NativeError("injected")

    def refuse() -> Any:
        raise MemoryError("no room")

    context.decode = broken  # type: ignore[method-assign]  # it is the fault
    engine._loop._make_context = refuse
    results = together([lambda: complete(engine, [5], n=3)] * 3)
    assert all(isinstance(result, ClosedError | NativeError) for result in results)
    with pytest.raises(ClosedError, match="no room"):
        complete(engine, [5])
    engine.close()
    context._handle._broken = None
    context.close()
    del context.decode


def test_a_mistake_of_the_engine_leaves_nobody_waiting(
    tiny_llama: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Engine(tiny_llama, n_parallel=2, n_ctx=64, n_threads=1) as engine:
        monkeypatch.setattr(engine._loop._steps, "plan", lambda: 1 // 0)
        results = together([lambda: complete(engine, [5])] * 5)
        assert {type(result) for result in results} == {ClosedError}, results
        assert "ZeroDivisionError" in str(results[0])
        assert engine.closed
    assert "The engine failed" in caplog.text
    caplog.clear()  # it holds the frames


def test_a_stray_cancel_of_the_context_harms_nobody(tiny_llama: Model) -> None:
    with engine_on(tiny_llama) as engine:
        wanted = text_of(complete(engine, [5]))
        engine.context.cancel()
        assert text_of(complete(engine, [5])) == wanted


# -- callbacks ------------------------------------------------------------------------------------


def broken(*_: Any) -> Any:
    raise ZeroDivisionError("mine")


def exits(*_: Any) -> Any:
    raise SystemExit("mine")


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"logits_processor": broken}, ZeroDivisionError),
        ({"stopping_criteria": broken}, ZeroDivisionError),
        ({"logits_processor": exits}, SystemExit),
        ({"logits_processor": lambda tokens, logits: logits.fill(float("-inf"))}, SamplingError),
        ({"logits_processor": lambda tokens, logits: logits[:3]}, ValueError),
    ],
    ids=["processor", "criterion", "exit", "nothing left", "wrong shape"],
)
def test_an_exception_of_a_callback_goes_to_its_caller(
    tiny_llama: Model, parameters: dict[str, Any], error: type[BaseException]
) -> None:
    with engine_on(tiny_llama) as engine:
        wanted = text_of(complete(engine, [5]))
        bad, good = held(
            engine, [lambda: complete(engine, [5], **parameters), lambda: complete(engine, [5])]
        )
        assert isinstance(bad, error)
        assert text_of(good) == wanted
        with pytest.raises(error):
            list(engine.create_completion([5], stream=True, temperature=0, **parameters))
        assert settled(engine).totals.failed == 2


def test_one_choice_that_fails_ends_the_others(tiny_llama: Model) -> None:
    calls = iter(range(1000))

    def third(tokens: Any, logits: Any) -> Any:
        if next(calls) == 2:
            raise ZeroDivisionError
        return logits

    with engine_on(tiny_llama, n_parallel=2) as engine:
        with pytest.raises(ZeroDivisionError):
            complete(engine, [5], n=4, max_tokens=100, logits_processor=third)
        totals = settled(engine).totals
        assert (totals.failed, totals.cancelled) == (1, 3)


@pytest.mark.parametrize("how", ["call", "stream", "close", "branch"])
def test_a_callback_cannot_wait_for_its_own_engine(tiny_llama: Model, how: str) -> None:
    with engine_on(tiny_llama) as engine:
        mine = engine.create_completion([9], max_tokens=3, stream=True)
        uses: dict[str, Callable[[], Any]] = {
            "call": lambda: complete(engine, [5]),
            "stream": lambda: list(mine),
            "close": lambda: engine.close(timeout=None),
            "branch": lambda: engine.branch([5]).generate(3),
        }

        def processor(tokens: Any, logits: Any) -> Any:
            uses[how]()
            return logits

        with pytest.raises(UnsupportedError, match="thread of your own"):
            complete(engine, [5], logits_processor=processor)
        assert not engine.closed
        assert engine.stats().n_parallel == 4
        mine.close()


def test_a_recipient_that_fails_is_dropped(
    tiny_llama: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with engine_on(tiny_llama) as engine:
        with monkeypatch.context() as patched:
            patched.setattr(delivery._Mailbox, "put", broken)
            reading = engine.create_completion([5], max_tokens=200, stream=True)
            settled(engine)
        assert "recipient failed" in caplog.text
        caplog.clear()  # it holds the frames
        assert text_of(complete(engine, [5]))
        del reading


def test_errors_of_memory_are_told_from_others(tiny_llama: Model) -> None:
    """No room is nobody's fault: less is tried at once."""
    sizes: list[int] = []

    def small(batch: Batch, decode: Callable[[Batch], None]) -> None:
        sizes.append(len(batch))
        if len(batch) > 10:
            raise ContextFullError("injected")
        decode(batch)

    with engine_on(tiny_llama) as engine:
        wanted = text_of(complete(engine, [8] * 50))
        with decoding(engine, small):
            assert text_of(complete(engine, [9, *[8] * 50]))
            results = held(engine, [lambda: complete(engine, [8] * 50)] * 3)
        assert [text_of(result) for result in results] == [wanted] * 3
        assert max(sizes) > 10
        assert settled(engine).totals.failed == 0
