"""Contexts: facts, every parameter, counters, many of one model, and after they were closed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llamacffi import Batch, Context, Model
from llamacffi.errors import (
    ClosedError,
    ContextInitError,
    LlamaCffiError,
    ParameterError,
)
from tests.conftest import CLOSE, Continue


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
def test_odd_rope_numbers_do_not_kill(tiny_llama: Model, value: float) -> None:
    try:
        with tiny_llama.context(
            n_ctx=32, n_threads=1, rope_freq_base=value, rope_freq_scale=value
        ) as c:
            c.decode_tokens([5, 6])
    except LlamaCffiError:
        pass


def test_counters(tiny_llama: Model) -> None:
    with tiny_llama.context(n_ctx=64, n_threads=1, no_perf=False) as context:
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


def test_attention_to_everything(tiny_llama: Model) -> None:
    with tiny_llama.context(n_ctx=32, n_threads=1, n_outputs_max=8) as context:
        context.decode_tokens([5, 6, 7], outputs="all")
        causal = context.logits(0).copy()
        context.memory.clear()
        context.set_causal_attention(False)
        context.decode_tokens([5, 6, 7], outputs="all")
        assert not np.allclose(context.logits(0), causal, **CLOSE)


def test_after_close(tiny_llama: Model) -> None:
    context = tiny_llama.context(n_ctx=32, n_threads=1)
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


def test_many_contexts_of_one_model(tiny_llama: Model) -> None:
    contexts = [tiny_llama.context(n_ctx=32, n_threads=1) for _ in range(8)]
    for context in contexts:
        context.decode_tokens([5, 6])
    wanted = contexts[0].logits().copy()
    assert all(np.array_equal(context.logits(), wanted) for context in contexts)
    for context in contexts[::2]:
        context.close()
    contexts[1].decode_tokens([7])
    for context in contexts:
        context.close()
