"""The memory of an engine: shared beginnings, what is forgotten first, and what if it is full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llamacffi import Llama, Model
from llamacffi.errors import ContextFullError
from tests.engines import alone, complete, engine_on, held, settled, text_of, together

BEGINNING = [5 + place * 7 % 60 for place in range(80)]


def cached(result: dict[str, Any]) -> int:
    return int(result["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_a_beginning_is_computed_once(tiny_llama: Model) -> None:
    with engine_on(tiny_llama) as engine:
        complete(engine, [*BEGINNING, 1])
        assert cached(complete(engine, [*BEGINNING, 2])) == len(BEGINNING)
        assert cached(complete(engine, [*BEGINNING, 3, 4])) == len(BEGINNING)
        assert cached(complete(engine, [9, *BEGINNING])) == 0


def test_a_beginning_is_computed_once_also_if_all_come_at_once(tiny_llama: Model) -> None:
    with engine_on(tiny_llama, n_parallel=8, n_ctx=512) as engine:
        calls = [lambda n=n: complete(engine, [*BEGINNING, n], max_tokens=2) for n in range(8)]
        results = held(engine, calls)
        assert sorted(map(cached, results)) == [0] + [80] * 7
        totals = settled(engine).totals
        # Each its own last token and the first of its answer; and what held the engine.
        assert totals.computed_tokens == 80 + 8 * 2 + 1


def test_several_answers_to_one_prompt_compute_it_once(tiny_llama: Model) -> None:
    with engine_on(tiny_llama) as engine:
        complete(engine, BEGINNING, n=4, max_tokens=1, temperature=1)
        assert settled(engine).totals.computed_tokens == 80 + 3


def test_a_conversation_goes_on_where_it_was(tiny_llama: Model) -> None:
    with engine_on(tiny_llama) as engine:
        first = complete(engine, BEGINNING, max_tokens=1, logprobs=0)
        assert first["usage"]["completion_tokens"] == 1
        assert cached(complete(engine, [*BEGINNING, 7, 7])) == 80


def test_what_was_used_longest_ago_is_forgotten_first(tiny_llama: Model) -> None:
    with engine_on(tiny_llama, n_parallel=1, n_ctx=256) as engine:  # two sequences
        prompts = [[first, *BEGINNING] for first in (1, 2, 3)]
        complete(engine, prompts[0])
        complete(engine, prompts[1])
        assert cached(complete(engine, prompts[0])) == 80
        assert cached(complete(engine, prompts[2])) == 0  # in the place of the second one
        assert cached(complete(engine, prompts[0])) == 80
        assert cached(complete(engine, prompts[1])) == 0


def test_a_full_memory_forgets_what_nobody_needs(tiny_llama: Model) -> None:
    with engine_on(tiny_llama) as engine:
        for first in range(1, 6):
            complete(engine, [first, *BEGINNING])
            assert engine.stats().n_remembered <= 256
        assert settled(engine).totals.preempted == 0


def test_some_are_sent_back_and_all_finish_with_the_right_text(exact_llama: Llama) -> None:
    prompts = [[first, *BEGINNING[:20]] for first in range(1, 9)]
    wanted = [text_of(alone(exact_llama, prompt, max_tokens=60)) for prompt in prompts]
    with engine_on(exact_llama.model, n_parallel=8, n_ctx=256) as engine:
        calls = [lambda p=prompt: text_of(complete(engine, p, max_tokens=60)) for prompt in prompts]
        assert held(engine, calls) == wanted
        totals = settled(engine).totals
    assert totals.preempted > 0
    assert totals.finished == 9
    # What was sent back was computed again; but not again and again.
    assert totals.computed_tokens < 3 * 8 * 81


def test_streams_only_pause_when_they_are_sent_back(exact_llama: Llama) -> None:
    wanted = [
        alone(exact_llama, [n, 9], max_tokens=100, temperature=1, seed=n) for n in range(1, 5)
    ]
    with engine_on(exact_llama.model, n_parallel=4, n_ctx=256) as engine:

        def streamed(n: int) -> str:
            chunks = engine.create_completion(
                [n, 9], max_tokens=100, temperature=1, seed=n, ignore_eos=True, stream=True
            )
            return "".join(chunk["choices"][0]["text"] for chunk in chunks)

        found = held(engine, [lambda n=n: streamed(n) for n in range(1, 5)])
        assert found == [text_of(result) for result in wanted]
        assert settled(engine).totals.preempted > 0


def test_scores_survive_a_full_memory(exact_llama: Llama) -> None:
    prompts = [[first, *BEGINNING] for first in range(1, 5)]
    parameters: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": 30}
    wanted = [alone(exact_llama, prompt, **parameters)["choices"][0] for prompt in prompts]
    with engine_on(exact_llama.model, n_ctx=256) as engine:
        calls = [lambda p=prompt: complete(engine, p, **parameters) for prompt in prompts]
        for result, choice in zip(held(engine, calls), wanted, strict=True):
            (found,) = result["choices"]
            assert found["text"] == choice["text"]
            assert found["logprobs"]["token_logprobs"][1:] == pytest.approx(
                choice["logprobs"]["token_logprobs"][1:], abs=1e-3
            )


@pytest.mark.parametrize("architecture", ["gemma3", "mamba", "jamba"])
def test_other_memories_that_are_full(tiny_models: dict[str, Model], architecture: str) -> None:
    model = tiny_models[architecture]
    prompts = [[first, *BEGINNING[:30]] for first in range(1, 7)]
    with engine_on(model, n_parallel=1) as engine:
        wanted = [text_of(complete(engine, prompt, max_tokens=80)) for prompt in prompts]
    with engine_on(model, n_parallel=4, n_ctx=256) as engine:
        calls = [lambda p=prompt: text_of(complete(engine, p, max_tokens=80)) for prompt in prompts]
        assert together(calls) == wanted


def test_one_alone_may_use_everything(tiny_llama: Model) -> None:
    with engine_on(tiny_llama, n_ctx=256) as engine:
        for prompt in ([1, *BEGINNING], [2] * 255):
            result = complete(engine, prompt, max_tokens=None)
            assert result["usage"]["total_tokens"] == 256
            assert result["choices"][0]["finish_reason"] == "length"
        calls: list[Callable[..., Any]] = [
            lambda n=n: complete(engine, [n, *BEGINNING], max_tokens=None) for n in (3, 4, 5)
        ]
        assert [result["usage"]["total_tokens"] for result in together(calls)] == [256] * 3


def test_one_that_does_not_fit_alone_ends_with_an_error(tiny_llama: Model) -> None:
    """Cannot happen by itself: there is always room for one. So its room is taken away."""
    with engine_on(tiny_llama, n_ctx=256) as engine:
        engine._loop._places.sequences._idle.remove(7)
        engine.context.memory._tokens[7] = []
        engine.context.decode_tokens([5] * 200, sequence=7)
        with pytest.raises(ContextFullError):
            complete(engine, [6] * 100)
        assert complete(engine, [6] * 20)["usage"]["completion_tokens"] == 8
        engine._loop._places.sequences.release(7)
