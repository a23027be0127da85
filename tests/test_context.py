"""Decoding: the same result however it is cut, views of the outputs, limits, threads, closing."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacffi import Batch, Context, Model
from llamacffi.errors import (
    CancelledError,
    ClosedError,
    ContextFullError,
    ContextInitError,
    DecodeError,
    EmptyInputError,
    InvalidPositionError,
    InvalidSequenceError,
    InvalidTokenError,
    LlamaCffiError,
    ParameterError,
    UnsupportedError,
)
from tests.tiny_models import write_model

PROMPT = "The capital of France is Paris, and the capital of Italy is"
CLOSE = {"rtol": 2e-2, "atol": 5e-2}  # batches of other sizes add up in another order
Continue = Callable[[Context, int], list[int]]


@pytest.fixture(scope="module")
def tokens(model: Model) -> list[int]:
    return model.vocab.tokenize(PROMPT)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model(write_model(tmp_path_factory.mktemp("context") / "t.gguf"), backend="cpu") as made:
        yield made


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write_model(tmp_path_factory.mktemp("bert") / "t.gguf", "bert")
    with Model(path, backend="cpu") as made:
        yield made


@pytest.fixture
def small(tiny: Model) -> Iterator[Context]:
    with tiny.context(n_ctx=64, n_threads=1, n_outputs_max=16) as made:
        yield made


# -- the same however it is cut -------------------------------------------------------------------


def whole(context: Context, tokens: list[int]) -> None:
    context.decode_tokens(tokens)


def chunked(context: Context, tokens: list[int]) -> None:
    for first in range(0, len(tokens), 5):
        context.decode_tokens(tokens[first : first + 5])


def one_by_one(context: Context, tokens: list[int]) -> None:
    for position, token in enumerate(tokens):
        context.decode_token(token, position)


def batched(context: Context, tokens: list[int]) -> None:
    batch = Batch()
    for position, token in enumerate(tokens):
        batch.add(token, position, output=position == len(tokens) - 1)
    context.decode(batch)


@pytest.mark.parametrize("way", [whole, chunked, one_by_one, batched])
@pytest.mark.parametrize("parameters", [{}, {"n_batch": 4}, {"n_ubatch": 3}])
def test_every_way_gives_the_same(
    model: Model,
    tokens: list[int],
    continue_greedily: Continue,
    way: Callable[[Context, list[int]], None],
    parameters: dict[str, int],
) -> None:
    if way is batched and "n_batch" in parameters:
        pytest.skip("one batch is one decode")
    with model.context(n_ctx=128, n_threads=1, **parameters) as context:
        way(context, tokens)
        assert context.memory.tokens() == tokens
        assert model.vocab.detokenize(continue_greedily(context, 3)) == " Rome.\n"


@pytest.mark.parametrize(
    "parameters",
    [
        {"flash_attention": "on"}, {"flash_attention": "off"}, {"type_k": "q8_0"},
        {"type_k": "f32", "type_v": "f32"}, {"type_k": "q8_0", "type_v": "q8_0"},
        {"kv_unified": True, "n_seq_max": 3}, {"offload_kqv": False}, {"op_offload": False},
        {"swa_full": True}, {"n_threads_batch": 2}, {"rope_freq_base": 100_000.0},
        {"attention": "causal"}, {"pooling": "none"}, {"n_recurrent_snapshots": 1},
    ],
    ids=str,
)  # fmt: skip
def test_parameters(
    model: Model, tokens: list[int], continue_greedily: Continue, parameters: dict[str, Any]
) -> None:
    with model.context(**{"n_ctx": 128, "n_threads": 1, **parameters}) as context:
        context.decode_tokens(tokens)
        assert model.vocab.detokenize(continue_greedily(context, 1)) == " Rome"


def test_facts(context: Context, model: Model) -> None:
    assert (context.n_ctx, context.n_ctx_seq, context.n_seq_max) == (512, 512, 1)
    assert context.n_ubatch <= context.n_batch <= 2048
    assert context.pooling == "none"
    assert context.model is model
    assert repr(context).endswith("n_ctx=512)")


# -- outputs --------------------------------------------------------------------------------------


def test_logits_are_a_view(small: Context) -> None:
    small.decode_tokens([5, 300])
    logits = small.logits()
    assert logits.shape == (small.model.vocab.n_tokens,)
    assert logits.dtype == np.float32
    assert logits.flags.writeable
    assert not logits.flags.owndata
    logits[7] = 1234.5
    assert small.logits()[7] == 1234.5, "it was a copy"


def test_all_outputs(small: Context) -> None:
    ids = [5, 300, 7, 9]
    small.decode_tokens(ids, outputs="all")
    rows = [small.logits(index).copy() for index in range(4)]
    for index in range(4):
        assert np.array_equal(rows[index], small.logits(index - 4))
    small.memory.clear()
    for position, token in enumerate(ids):
        small.decode_token(token, position)
        assert np.allclose(small.logits(), rows[position], **CLOSE)


def test_no_outputs(small: Context) -> None:
    small.decode_tokens([5, 300], outputs="none")
    with pytest.raises(IndexError):
        small.logits()
    assert small.memory.position_max() == 1


@pytest.mark.parametrize("index", [1, 2, -2, 10**6, -(10**6), 2**31 - 1, 2**40])
def test_outputs_that_are_not_there(small: Context, index: int) -> None:
    small.decode_tokens([5], outputs="last")
    with pytest.raises(IndexError, match=str(index)):
        small.logits(index)
    assert small.logits(0)[5] == small.logits(-1)[5]


def test_before_any_decode(small: Context) -> None:
    with pytest.raises(IndexError):
        small.logits()


def test_a_view_outlives_its_context(tiny: Model) -> None:
    context = tiny.context(n_ctx=32, n_threads=1)
    context.decode_tokens([5])
    view, wanted = context.logits(), context.logits().copy()
    part = context.logits()[10:20]
    context.close()
    gc.collect()
    assert np.array_equal(view, wanted)
    del view
    gc.collect()
    assert np.array_equal(part, wanted[10:20]), "a slice of a view keeps it, too"
    with pytest.raises(ClosedError):
        context.logits()


def test_a_view_outlives_its_model(tmp_path: Path) -> None:
    model = Model(write_model(tmp_path / "t.gguf"), backend="cpu")
    context = model.context(n_ctx=32, n_threads=1)
    context.decode_tokens([5])
    view, wanted = context.logits(), context.logits().copy()
    model.close()
    assert np.array_equal(view, wanted)


def test_the_buffer_does_not_grow_under_a_view(small: Context) -> None:
    small.decode_tokens([5])
    view = small.logits()
    with pytest.raises(DecodeError, match="Copy"):
        small.decode_tokens([5, 6, 7], outputs="all")
    assert small.memory.position_max() == 0
    small.decode_tokens([5, 6, 7])  # one row fits
    assert np.isfinite(view).all()
    del view
    small.decode_tokens([5, 6, 7], outputs="all")
    assert np.isfinite(small.logits(2)).all()


def test_more_outputs_than_there_is_room(tiny: Model) -> None:
    with tiny.context(n_ctx=64, n_threads=1, n_outputs_max=3) as context:
        context.decode_tokens([5, 6, 7], outputs="all")
        with pytest.raises(ContextFullError, match="n_outputs_max"):
            context.decode_tokens([5, 6, 7, 8], outputs="all")
        context.decode_tokens([5, 6, 7, 8])
        batch = Batch()
        for position in range(7, 11):
            batch.add(5, position, output=True)
        with pytest.raises(ContextFullError, match="n_outputs_max"):
            context.decode(batch)


# -- embeddings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooled_embeddings(tiny: Model, pooling: str) -> None:
    with tiny.context(n_ctx=64, n_threads=1, embeddings=True, pooling=pooling) as context:
        assert context.pooling == pooling
        context.decode_tokens([5, 300, 7])
        found = context.pooled_embedding()
        assert found.shape == (tiny.n_embd_out,)
        assert found.flags.owndata
        context.memory.clear()
        context.decode_tokens([5, 301, 7])
        assert not np.array_equal(context.pooled_embedding(), found) or pooling == "cls"
        for sequence in (1, -1, 10**6):
            with pytest.raises((IndexError, InvalidSequenceError)):
                context.pooled_embedding(sequence)


def test_embeddings_of_tokens(tiny: Model) -> None:
    with (
        tiny.context(n_ctx=64, n_threads=1, embeddings=True, pooling="none") as context,
        tiny.context(n_ctx=64, n_threads=1, embeddings=True, pooling="mean") as pooled,
    ):
        for each in (context, pooled):
            each.decode_tokens([5, 300, 7])
        rows = np.array([context.embeddings(index) for index in range(3)])
        assert rows.shape == (3, tiny.n_embd_out)
        assert np.allclose(rows.mean(axis=0), pooled.pooled_embedding(), **CLOSE)
        with pytest.raises(UnsupportedError):
            context.pooled_embedding()
        with pytest.raises(IndexError):
            context.embeddings(3)


def test_no_embeddings_where_none_are_computed(small: Context) -> None:
    small.decode_tokens([5])
    with pytest.raises(UnsupportedError, match="embeddings=True"):
        small.embeddings()
    with pytest.raises(UnsupportedError, match="embeddings=True"):
        small.pooled_embedding()


def test_an_encoder(bert: Model) -> None:
    tokens = bert.vocab.tokenize("hello the time")
    with bert.context(n_ctx=64, n_threads=1, embeddings=True) as context:
        assert context.pooling == "mean"
        context.decode_tokens(tokens)
        first = context.pooled_embedding()
        context.decode_tokens(tokens)  # it remembers nothing
        assert np.allclose(context.pooled_embedding(), first)
        assert context.memory.position_max() == context.memory.position_min() == -1
        assert context.memory.tokens() == []
        context.memory.clear()
        assert context.memory.remove(0)
        context.warm_up()


@pytest.mark.parametrize("position", [-1, -5, 255, 256, 2**31 - 1, 2**40])
def test_positions_in_an_encoder(bert: Model, position: int) -> None:
    with bert.context(n_ctx=64, n_threads=1, embeddings=True) as context:
        with pytest.raises((LlamaCffiError, OverflowError)):
            context.decode_tokens([5, 6], position=position)
        context.decode_tokens([5, 6])


IN_CHILD = """
import sys
import llamacffi
model = llamacffi.Model(sys.argv[1], backend="cpu")
try:
    context = model.context(
        n_ctx=1024, n_batch=1024, n_ubatch=1024, n_threads=2,
        embeddings=model.architecture == "bert",
    )
    context.decode_tokens([5] * 300)  # the last ones are a worker's
except llamacffi.errors.LlamaCffiError as error:
    print("refused", type(error).__name__)
else:
    print("decoded")
"""


@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_more_positions_than_the_model_has(architecture: str, tmp_path: Path) -> None:
    """Learned positions end with n_ctx_train: one more is read out of the tensor's bounds, and the
    assertion fails in a worker thread, which nobody can catch. Hence in a child process.
    """
    path = write_model(tmp_path / "t.gguf", architecture)
    child = subprocess.run(
        [sys.executable, "-c", IN_CHILD, str(path)], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr[-300:]
    assert child.stdout.startswith("refused")
    assert "NativeError" not in child.stdout, "it was tried"


def test_a_text_too_long_for_an_encoder(bert: Model) -> None:
    with bert.context(n_ctx=64, n_batch=8, n_threads=1, embeddings=True) as context:
        with pytest.raises(ContextFullError):
            context.decode_tokens([5] * 9)
        context.decode_tokens([5] * 8)


def test_embeddings_as_input(tiny: Model) -> None:
    random = np.random.default_rng(0)
    with tiny.context(n_ctx=64, n_threads=1) as context:
        batch = Batch()
        for position in range(3):
            batch.add_embedding(random.random(tiny.n_embd_inp), position, output=position == 2)
        context.decode(batch)
        assert np.isfinite(context.logits()).all()
        assert context.memory.tokens() == []
        assert context.memory.position_max() == 2
        context.decode_tokens([5])
        assert context.memory.tokens() == [], "the tokens before are not known"


def test_only_encoders_encode(small: Context) -> None:
    with pytest.raises(UnsupportedError, match="no encoder"):
        small.encode([5])


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "parameters", "error"),
    [
        ([], {}, EmptyInputError),
        ([-1], {}, InvalidTokenError),
        ([5, 10**9], {}, InvalidTokenError),
        ([2**40], {}, InvalidTokenError),
        ([1.5], {}, (TypeError, InvalidTokenError)),
        ([None], {}, TypeError),
        (["a"], {}, TypeError),
        (None, {}, TypeError),
        ([5], {"sequence": 1}, InvalidSequenceError),
        ([5], {"sequence": -1}, InvalidSequenceError),
        ([5], {"sequence": 2**40}, InvalidSequenceError),
        ([5], {"position": 1}, InvalidPositionError),
        ([5], {"position": -1}, InvalidPositionError),
        ([5], {"position": 2**40}, InvalidPositionError),
        ([5], {"outputs": "some"}, ParameterError),
        ([5] * 257, {}, ContextFullError),  # llama.cpp rounds n_ctx up to 256,
    ],
)
def test_refused(
    small: Context, tokens: Any, parameters: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        small.decode_tokens(tokens, **parameters)
    assert small.memory.position_max() == -1
    small.decode_tokens([5, 6])
    assert small.memory.tokens() == [5, 6]


@pytest.mark.parametrize(
    ("token", "position", "sequence", "error"),
    [
        (-1, 2, 0, InvalidTokenError),
        (10**9, 2, 0, InvalidTokenError),
        (5, 1, 0, InvalidPositionError),
        (5, 0, 0, InvalidPositionError),
        (5, 3, 0, InvalidPositionError),
        (5, -1, 0, InvalidPositionError),
        (5, 256, 0, ContextFullError),
        (5, 2**40, 0, ContextFullError),
        (5, 0, 1, InvalidSequenceError),
        (5, 0, -1, InvalidSequenceError),
        (5, 0, 2**31 - 1, InvalidSequenceError),
    ],
)
def test_a_single_token_refused(
    small: Context, token: int, position: int, sequence: int, error: type[Exception]
) -> None:
    small.decode_tokens([5, 6])
    with pytest.raises(error):
        small.decode_token(token, position, sequence)
    assert small.memory.tokens() == [5, 6]
    small.decode_token(7, 2)


@pytest.mark.parametrize("kind", [tuple, np.array, lambda ids: np.array(ids, np.int32)])
def test_kinds_of_token_lists(small: Context, kind: Callable[[list[int]], Any]) -> None:
    small.decode_tokens(kind([5, 6, 7]))
    assert small.memory.tokens() == [5, 6, 7]


def test_a_full_context_goes_on_after_room_was_made(small: Context) -> None:
    small.decode_tokens([5] * small.n_ctx_seq)
    with pytest.raises(ContextFullError):
        small.decode_tokens([5])
    with pytest.raises(ContextFullError):
        small.decode_token(5, small.n_ctx_seq)
    small.memory.remove(0, 60)
    small.decode_tokens([6])


@pytest.mark.parametrize(
    "parameters",
    [
        {"n_ctx": 2**31 - 1}, {"n_ctx": 2**31}, {"n_ctx": 2**40}, {"n_ctx": -1}, {"n_batch": 0},
        {"n_batch": 2**31}, {"n_ubatch": -1}, {"n_seq_max": 0}, {"n_seq_max": 10_000},
        {"n_threads": -1}, {"n_threads": 513}, {"n_threads_batch": 10**6}, {"n_outputs_max": -1},
        {"yarn_orig_ctx": -1}, {"n_recurrent_snapshots": -1}, {"pooling": "max"},
        {"attention": "all"}, {"flash_attention": True}, {"type_k": "f17"}, {"type_v": 8},
        {"rope_scaling": "log"}, {"flash_attention": "off", "type_v": "q8_0"},
    ],
    ids=str,
)  # fmt: skip
def test_contexts_that_cannot_be(model: Model, parameters: dict[str, Any]) -> None:
    with pytest.raises((ContextInitError, ParameterError)):
        model.context(**{"n_ctx": 64, "n_threads": 1, **parameters})


def test_an_unknown_parameter(model: Model) -> None:
    with pytest.raises(TypeError, match="n_ctxx"):
        model.context(n_ctxx=64)


def test_a_cache_larger_than_the_memory_is_refused(model: Model) -> None:
    with pytest.raises(ContextInitError, match="GiB"):
        model.context(n_ctx=2**31 - 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_odd_rope_numbers_do_not_kill(tiny: Model, value: float) -> None:
    try:
        with tiny.context(n_ctx=32, n_threads=1, rope_freq_base=value, rope_freq_scale=value) as c:
            c.decode_tokens([5, 6])
    except LlamaCffiError:
        pass


# -- cancelling, threads --------------------------------------------------------------------------


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


def test_threads_of_the_computation(tiny: Model) -> None:
    with tiny.context(n_ctx=32, n_threads=2) as context:
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


# -- counters and the rest ------------------------------------------------------------------------


def test_counters(tiny: Model) -> None:
    with tiny.context(n_ctx=64, n_threads=1, no_perf=False) as context:
        context.decode_tokens([5, 6, 7])
        context.synchronize()  # what has not been waited for is counted together
        context.decode_token(5, 3)
        context.synchronize()
        counted = context.performance
        assert (counted.n_prompt, counted.n_eval) == (3, 1)
        assert counted.prompt_ms > 0
        assert counted.eval_ms > 0
        context.reset_performance()
        again = context.performance
        assert again.prompt_ms == again.eval_ms == 0


def test_counters_are_off_unless_asked_for(small: Context) -> None:
    small.decode_tokens([5, 6, 7])
    assert small.performance.prompt_ms == 0


def test_warming_up_leaves_no_trace(small: Context) -> None:
    small.warm_up()
    assert small.memory.position_max() == -1
    small.decode_tokens([5, 6])
    small.warm_up()
    assert small.memory.tokens() == [5, 6]


def test_attention_to_everything(tiny: Model) -> None:
    with tiny.context(n_ctx=32, n_threads=1, n_outputs_max=8) as context:
        context.decode_tokens([5, 6, 7], outputs="all")
        causal = context.logits(0).copy()
        context.memory.clear()
        context.set_causal_attention(False)
        context.decode_tokens([5, 6, 7], outputs="all")
        assert not np.allclose(context.logits(0), causal, **CLOSE)


def test_after_close(tiny: Model) -> None:
    context = tiny.context(n_ctx=32, n_threads=1)
    batch = Batch()
    batch.add(5, 0)
    context.close()
    context.close()
    assert context.closed
    assert "closed" in repr(context)
    context.cancel()
    for use in (
        lambda: context.decode_tokens([5]),
        lambda: context.decode_token(5, 0),
        lambda: context.decode(batch),
        context.logits,
        lambda: context.n_threads,
        lambda: context.n_threads_batch,
        lambda: context.set_threads(1),
        lambda: context.set_causal_attention(True),
        lambda: context.set_adapters([]),
        lambda: context.performance,
        context.reset_performance,
        context.synchronize,
        context.warm_up,
        context.memory.clear,
        context.memory.remove,
        context.memory.position_min,
        context.memory.position_max,
        lambda: context.memory.can_shift,
        lambda: context.memory.keep(0),
        lambda: context.memory.shift(0, 0, 1, 1),
        lambda: context.memory.divide(0, 0, 1, 2),
    ):
        with pytest.raises(ClosedError):
            use()


def test_many_contexts_of_one_model(tiny: Model) -> None:
    contexts = [tiny.context(n_ctx=32, n_threads=1) for _ in range(8)]
    for context in contexts:
        context.decode_tokens([5, 6])
    wanted = contexts[0].logits().copy()
    assert all(np.array_equal(context.logits(), wanted) for context in contexts)
    for context in contexts[::2]:
        context.close()
    contexts[1].decode_tokens([7])
    for context in contexts:
        context.close()
