"""Saved states: loading one is like having decoded its tokens."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from llamacffi import Context, Model
from tests.conftest import Continue
from tests.states import OPTIONS, TOKENS, greedy, remembering
from tests.tiny_models import ARCHITECTURES

TEXT = "Once upon a time there was a town by the sea, and in it lived an old man who "
GENERATORS = [name for name in ARCHITECTURES if name not in ("t5", "bert")]


filled = pytest.fixture(remembering)


def test_the_real_model_goes_on_as_without_the_detour(
    model: Model, context: Context, continue_greedily: Continue
) -> None:
    tokens = model.vocab.tokenize(TEXT)
    context.decode_tokens(tokens)
    first = int(context.logits().argmax())
    saved = context.save_state(0)
    expected = continue_greedily(context, 20)
    with model.context(n_ctx=256, n_threads=context.n_threads) as other:
        other.load_state(saved)
        assert other.memory.tokens() == tokens
        assert other.memory.common_prefix([*tokens, 1]) == len(tokens)
        assert (other.memory.position_min(), other.memory.position_max()) == (0, len(tokens) - 1)
        assert greedy(other, first, 19) == expected


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("architecture", GENERATORS)
def test_every_kind_of_memory(
    tiny_models: dict[str, Model], architecture: str, whole: bool
) -> None:
    model = tiny_models[architecture]
    with model.context(**OPTIONS) as one, model.context(**OPTIONS) as two:
        tokens = [token % model.vocab.n_tokens for token in TOKENS]
        one.decode_tokens(tokens)
        first = int(one.logits().argmax())
        saved = one.save_state(None if whole else 0)
        expected = greedy(one, first, 12)
        two.decode_tokens(tokens[:3])
        two.load_state(saved)
        assert two.memory.tokens() == tokens
        assert two.memory.position_max() == len(tokens) - 1
        assert greedy(two, first, 12) == expected
        one.load_state(saved)  # also over what is there
        assert greedy(one, first, 12) == expected


@pytest.mark.parametrize("unified", [False, True])
def test_sequences(tiny_models: dict[str, Model], unified: bool) -> None:
    with tiny_models["llama"].context(**OPTIONS, n_seq_max=3, kv_unified=unified) as context:
        context.decode_tokens(TOKENS[:20])
        first = int(context.logits().argmax())
        context.decode_tokens(TOKENS[5:9], sequence=1)
        whole, one = context.save_state(), context.save_state(0)
        expected = greedy(context, first, 5)
        context.load_state(one, 2)
        assert [context.memory.tokens(i)[:21] for i in range(3)] == [
            [*TOKENS[:20], first], TOKENS[5:9], TOKENS[:20],
        ]  # fmt: skip
        assert greedy(context, first, 5, sequence=2) == expected
        context.load_state(whole)
        assert [context.memory.tokens(i) for i in range(3)] == [TOKENS[:20], TOKENS[5:9], []]
        assert greedy(context, first, 5) == expected


def test_nothing_remembered(tiny_models: dict[str, Model], filled: Context) -> None:
    with tiny_models["llama"].context(**OPTIONS) as empty:
        for sequence in (0, None):
            saved = empty.save_state(sequence)
            assert len(saved) < 1500
            filled.decode_tokens([3])
            filled.load_state(saved)
            assert (filled.memory.tokens(), filled.memory.position_max()) == ([], -1)


def test_tokens_that_are_not_known_are_not_claimed(filled: Context) -> None:
    filled.memory.forget_tokens()
    filled.load_state(filled.save_state(0))
    assert filled.memory.tokens() == []
    assert filled.memory.position_max() == len(TOKENS) - 1


@pytest.mark.parametrize("whole", [False, True])
def test_a_state_is_no_larger_than_what_is_remembered(
    model: Model, context: Context, whole: bool
) -> None:
    # llama-cpp-python saves 196,608 bytes of logits with one token of this model.
    context.decode_tokens([1])
    per_token = 2 * 2 * model.n_layer * model.n_embd // model.n_head * model.n_head_kv
    assert per_token < len(context.save_state(None if whole else 0)) < per_token + 2048


@pytest.mark.parametrize("parameters", [
    {"type_k": "q8_0"}, {"flash_attention": "off"}, {"flash_attention": "on", "type_v": "q8_0"},
])  # fmt: skip
def test_other_layouts(model: Model, parameters: dict[str, Any]) -> None:
    tokens = model.vocab.tokenize(TEXT)
    with model.context(n_ctx=64, **parameters) as one, model.context(n_ctx=96, **parameters) as two:
        one.decode_tokens(tokens)
        first = int(one.logits().argmax())
        two.load_state(one.save_state(0))
        assert greedy(two, first, 5) == greedy(one, first, 5)


def test_threads_take_turns(filled: Context) -> None:
    saved = filled.save_state(0)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                filled.load_state(saved)
                assert len(filled.save_state(0)) == len(saved)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert filled.memory.tokens() == TOKENS
