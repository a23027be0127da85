"""The state machine of one answer: prompt reuse, steps, ends, usage."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacffi import (
    Context,
    DraftModel,
    Model,
    PromptLookup,
    SamplerChain,
    SamplingParams,
)
from llamacffi.errors import (
    CancelledError,
    ClosedError,
    ContextFullError,
    EmptyInputError,
    InvalidTokenError,
    ParameterError,
    UnsupportedError,
)
from llamacffi.generation import Generation, Step, prepare, run, run_drafted
from tests.tiny_models import ARCHITECTURES, write_model

PROMPT = "The capital of France is"
ENCODERS = ("bert",)


def generation(model: Model, prompt: str | list[int] = PROMPT, **parameters: Any) -> Generation:
    tokens = model.vocab.tokenize(prompt) if isinstance(prompt, str) else prompt
    chain = parameters.pop("chain", None) or SamplerChain(model, ["greedy"])
    return Generation(model.vocab, chain, tokens, **{"max_tokens": 6, **parameters})


def text_of(steps: list[Step]) -> str:
    return "".join(step.text for step in steps)


@pytest.fixture(scope="module")
def wanted(model: Model) -> list[int]:
    """The six most probable tokens after PROMPT, one decode each, without a Generation."""
    with model.context(n_ctx=64, n_threads=1) as context:
        tokens = model.vocab.tokenize(PROMPT)
        for _ in range(6):
            context.memory.clear()
            context.decode_tokens(tokens)
            tokens.append(int(context.logits().argmax()))
    return tokens[-6:]


# -- what comes out -------------------------------------------------------------------------------


def test_steps(model: Model, context: Context, wanted: list[int]) -> None:
    answer = generation(model)
    steps = list(run(context, answer))
    assert [step.token for step in steps] == wanted
    assert text_of(steps) == model.vocab.detokenize(wanted)
    assert [step.finish_reason for step in steps] == [None] * 5 + ["length"]
    assert answer.finish_reason == "length"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (5, 6, 0)
    assert usage.total_tokens == 11
    assert answer.tokens == answer.prompt + wanted


def test_a_prompt_is_decoded_in_chunks(model: Model, wanted: list[int]) -> None:
    with model.context(n_ctx=64, n_batch=2, n_threads=1) as context:
        assert [step.token for step in run(context, generation(model))] == wanted


def test_a_known_prompt_is_not_decoded_again(
    model: Model, context: Context, wanted: list[int]
) -> None:
    first, second = generation(model), generation(model)
    list(run(context, first))
    steps = list(run(context, second))
    assert (first.usage.cached_tokens, second.usage.cached_tokens) == (0, 4)  # the last: logits
    assert [step.token for step in steps] == wanted


def test_a_conversation_goes_on_where_it_was(model: Model, context: Context) -> None:
    first = generation(model)
    list(run(context, first))
    longer = [*first.tokens, *model.vocab.tokenize(" And of Italy?")]
    second = generation(model, longer)
    reused = [step.token for step in run(context, second)]
    assert second.usage.cached_tokens == len(first.tokens) - 1  # the last one was not decoded
    context.memory.clear()
    fresh = generation(model, longer)
    assert [step.token for step in run(context, fresh)] == reused
    assert fresh.usage.cached_tokens == 0


def test_an_edited_prompt_keeps_the_common_part(model: Model, context: Context) -> None:
    list(run(context, generation(model, "The capital of Norway is a")))
    answer = generation(model)
    reused = [step.token for step in run(context, answer)]
    assert answer.usage.cached_tokens == 3
    assert context.memory.tokens()[:5] == answer.prompt
    context.memory.clear()
    assert [step.token for step in run(context, generation(model))] == reused


def test_a_shorter_prompt(model: Model, context: Context) -> None:
    list(run(context, generation(model)))
    answer = generation(model, "The capital", max_tokens=2)
    list(run(context, answer))
    assert answer.usage.cached_tokens == 1
    assert context.memory.position_max() == 2


def test_sequences_do_not_mix(model: Model, wanted: list[int]) -> None:
    with model.context(n_ctx=128, n_seq_max=2, n_threads=1) as context:
        one = run(context, generation(model), 0)
        two = run(context, generation(model, "Dogs and cats are"), 1)
        pairs = list(zip(one, two, strict=True))
        assert [step.token for step, _ in pairs] == wanted


# -- how it ends ----------------------------------------------------------------------------------


def towards(token: int) -> SamplingParams:
    return SamplingParams(temperature=0, logit_bias={token: 1000.0})


def test_the_model_ends_it(model: Model, context: Context) -> None:
    chain = towards(model.vocab.eos or 0).chain(model)
    answer = generation(model, chain=chain)
    (step,) = run(context, answer)
    assert (step.text, step.finish_reason) == ("", "stop")
    assert answer.usage.completion_tokens == 0


def test_the_end_can_be_ignored(model: Model, context: Context) -> None:
    chain = towards(model.vocab.eos or 0).chain(model)
    answer = generation(
        model, chain=chain, ignore_eos=True, spelled=model.vocab.eog_tokens, max_tokens=2
    )
    steps = list(run(context, answer))
    assert not any(model.vocab.is_eog(step.token) for step in steps)
    assert len(steps) == 2
    assert answer.finish_reason == "length"


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_stop_string_anywhere(
    model: Model, context: Context, wanted: list[int], cut: int
) -> None:
    whole = model.vocab.detokenize(wanted)
    stop = whole[cut : cut + 4]
    answer = generation(model, stop=[stop, "never"], max_tokens=6)
    text = text_of(list(run(context, answer)))
    assert text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"


def test_a_stop_that_is_not_complete_is_shown(
    model: Model, context: Context, wanted: list[int]
) -> None:
    whole = model.vocab.detokenize(wanted)
    answer = generation(model, stop=[whole[-3:] + "!!!"])
    assert text_of(list(run(context, answer))) == whole
    assert answer.finish_reason == "length"


def test_a_criterion(model: Model, context: Context) -> None:
    seen: list[int] = []

    def enough(tokens: Any, its: Context, index: int) -> bool:
        assert (its, index) == (context, -1)
        seen.append(len(tokens))
        return len(seen) == 3

    answer = generation(model, criteria=enough)
    assert len(list(run(context, answer))) == 3
    assert answer.finish_reason == "stop"
    assert seen == [6, 7, 8]


def test_the_exception_of_a_criterion_arrives(model: Model, context: Context) -> None:
    def careless(tokens: Any, its: Context, index: int) -> bool:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(run(context, generation(model, criteria=careless)))
    assert len(list(run(context, generation(model, max_tokens=1)))) == 1


def test_the_end_of_the_context(model: Model) -> None:
    with model.context(n_ctx=256, n_threads=1) as context:
        prompt = model.vocab.tokenize("a b c d e f g h " * 40)[: context.n_ctx_seq - 3]
        answer = generation(model, prompt, max_tokens=100, ignore_eos=True)
        assert len(list(run(context, answer))) == 3
        assert answer.finish_reason == "length"
        full = generation(model, [5] * (context.n_ctx_seq - 1), max_tokens=100, ignore_eos=True)
        assert len(list(run(context, full))) == 1


def test_characters_come_out_whole(model: Model, context: Context) -> None:
    """Every token is forced, so that the characters are known to span tokens."""
    text = "🧑🏽‍🚀é東"
    tokens = model.vocab.tokenize(text)
    assert len(tokens) > 6
    queue = iter(tokens)

    def force(ids: Any, logits: Any) -> None:
        logits[:] = -np.inf
        logits[next(queue)] = 0

    chain = SamplingParams(temperature=0, processors=[force]).chain(model)
    steps = list(run(context, generation(model, chain=chain, max_tokens=len(tokens))))
    assert text_of(steps) == text
    assert "\ufffd" not in text_of(steps)
    queue = iter(tokens)
    cut = list(run(context, generation(model, chain=chain, max_tokens=2)))
    assert text_of(cut) == model.vocab.detokenize(tokens[:2])


def test_logprobs_are_the_models_own(model: Model, context: Context) -> None:
    """Taken before processors and samplers change the numbers."""

    def lift(ids: Any, logits: Any) -> None:
        logits[700] = 1000

    plain = next(run(context, generation(model, logprobs=3, max_tokens=1))).logprobs
    chain = SamplingParams(temperature=0, processors=[lift]).chain(model)
    answer = generation(model, chain=chain, logprobs=3, max_tokens=1)
    (step,) = run(context, answer)
    assert step.token == 700
    assert step.logprobs is not None
    assert plain is not None
    for (token, logprob), (wanted, its) in zip(step.logprobs.top, plain.top, strict=True):
        assert token == wanted
        assert logprob == pytest.approx(its)
    assert step.logprobs.logprob < plain.logprob < 0


def test_no_alternatives_but_a_logprob(model: Model, context: Context) -> None:
    (step,) = run(context, generation(model, logprobs=0, max_tokens=1))
    assert step.logprobs is not None
    assert step.logprobs.top == ()
    assert step.logprobs.logprob < 0


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "parameters", "error"),
    [
        ([], {}, EmptyInputError),
        ([5, -1], {}, InvalidTokenError),
        ([10**9], {}, InvalidTokenError),
        ([49_152], {}, InvalidTokenError),
        ([1.5], {}, (TypeError, InvalidTokenError)),
        ([None], {}, TypeError),
        ([5], {"stop": [""]}, ParameterError),
    ],
)
def test_refused(
    model: Model, prompt: Any, parameters: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        generation(model, prompt, **parameters)


def test_a_chain_that_picks_nothing(model: Model) -> None:
    with pytest.raises(ParameterError, match="picks no token"):
        generation(model, chain=SamplerChain(model, ["top_k"]))


def test_a_prompt_longer_than_the_context(model: Model, context: Context) -> None:
    with pytest.raises(ContextFullError, match="512"):
        list(run(context, generation(model, [5] * 512)))
    assert len(list(run(context, generation(model, max_tokens=1)))) == 1


# -- cancelling and closing -----------------------------------------------------------------------


def cancel_soon(context: Context, delay: float = 0.05) -> threading.Timer:
    timer = threading.Timer(delay, context.cancel)
    timer.start()
    return timer


def test_cancelled_from_another_thread(model: Model, context: Context, wanted: list[int]) -> None:
    timer = cancel_soon(context)

    def go_on() -> None:
        for _ in range(1000):
            list(run(context, generation(model, max_tokens=400, ignore_eos=True)))

    with pytest.raises(CancelledError):
        go_on()
    timer.join()
    assert [step.token for step in run(context, generation(model))] == wanted


def test_a_long_prompt_is_cancelled_within_a_moment(model: Model, wanted: list[int]) -> None:
    with model.context(n_ctx=4096, n_threads=1) as context:
        tokens = model.vocab.tokenize("one two three four " * 1000)[:4000]
        timer = cancel_soon(context, 0.2)
        with pytest.raises(CancelledError):
            prepare(context, generation(model, tokens))
        timer.join()
        assert context.memory.position_max() == -1, "the memory is not as before"
        assert context.memory.tokens() == []
        assert [step.token for step in run(context, generation(model))] == wanted


def test_closed_while_it_runs(model: Model) -> None:
    context = model.context(n_ctx=512, n_threads=1)
    steps = run(context, generation(model, max_tokens=400, ignore_eos=True))
    next(steps)
    closer = threading.Thread(target=context.close)
    closer.start()
    with pytest.raises(ClosedError):
        list(steps)
    closer.join()
    assert context.closed


# -- other architectures --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("tiny")

    def path_of(architecture: str) -> Path:
        path = folder / f"{architecture}.gguf"
        return path if path.exists() else write_model(path, architecture)

    return path_of


@pytest.fixture
def tiny(request: pytest.FixtureRequest, tiny_path: Callable[[str], Path]) -> Iterator[Model]:
    with Model(tiny_path(request.param), backend="cpu") as loaded:
        yield loaded


@pytest.mark.parametrize(
    "tiny", [name for name in ARCHITECTURES if name not in ENCODERS], indirect=True
)
def test_every_architecture(tiny: Model) -> None:
    """The same tokens with and without what was remembered, whole and in chunks."""
    prompt = tiny.vocab.tokenize("once upon a time hello the and once upon a time hello")
    with tiny.context(n_ctx=128, n_threads=1) as context:
        first = generation(tiny, prompt, ignore_eos=True)
        found = [step.token for step in run(context, first)]
        again = generation(tiny, prompt, ignore_eos=True)
        assert [step.token for step in run(context, again)] == found
        longer = generation(tiny, first.tokens, ignore_eos=True)
        continued = [step.token for step in run(context, longer)]
        context.memory.clear()
        fresh = generation(tiny, first.tokens, ignore_eos=True)
        assert [step.token for step in run(context, fresh)] == continued
    if not tiny.has_encoder:
        with tiny.context(n_ctx=128, n_batch=4, n_threads=1) as context:
            answer = generation(tiny, prompt, ignore_eos=True)
            assert [step.token for step in run(context, answer)] == found


@pytest.mark.parametrize("tiny", ENCODERS, indirect=True)
def test_an_encoder_makes_no_text(tiny: Model) -> None:
    with (
        tiny.context(n_ctx=64, n_threads=1, embeddings=True) as context,
        pytest.raises(UnsupportedError, match="encoder"),
    ):
        list(run(context, generation(tiny, [5, 6])))


# -- drafters alone --------------------------------------------------------------------------------


SMALL = st.integers(0, 3)


@given(st.lists(SMALL, min_size=1, max_size=60), st.integers(1, 8), st.integers(1, 4), SMALL)
def test_a_lookup_proposes_what_came_before(
    tokens: list[int], most: int, fewest: int, more: int
) -> None:
    lookup = PromptLookup(most, fewest + more, fewest)
    for size in range(1, len(tokens) + 1):
        known = tokens[:size]
        proposal = list(lookup(np.array(known, dtype=np.intc)))
        # What stands behind another place of the last token, repeated if that is too short.
        places = [at for at in range(1, size) if known[at - 1] == known[-1]]
        assert len(proposal) <= most
        followers = [(known[at:] * most)[: len(proposal)] for at in places]
        assert not proposal or proposal in followers


def test_a_lookup_needs_as_many_tokens_as_it_was_told() -> None:
    tokens = [1, 2, 3, 9, 2, 3]
    assert list(PromptLookup(2, 4, 2)(np.array(tokens, dtype=np.intc))) == [9, 2]
    assert list(PromptLookup(2, 4, 3)(np.array(tokens, dtype=np.intc))) == []


def test_a_lookup_goes_on_behind_a_change_and_forgets_with_the_text() -> None:
    lookup = PromptLookup(7, 3, 3)
    source = list(range(10, 40))
    copied = [*source, 1, 10, 11, 12]
    assert list(lookup(np.array(copied, dtype=np.intc))) == [13, 14, 15]
    copied += [13, 14, 15, 16]
    assert list(lookup(np.array(copied, dtype=np.intc))) == [17, 18, 19, 20, 21, 22, 23]
    copied += [17, 18, 19, 20, 21, 22, 5, 24]  # 5 in the place of 23
    assert list(lookup(np.array(copied, dtype=np.intc))) == [25, 26, 27]
    assert list(lookup(np.array([7, 8, 7], dtype=np.intc))) == []


def test_a_lookup_prefers_the_longer_and_the_later_match() -> None:
    longer, later = [1, 2, 3, 7, 8, 9, 3, 5, 6, 1, 2, 3], [3, 7, 7, 3, 5, 5, 3]
    for tokens, wanted in ((longer, [7, 8]), (later, [5, 5])):
        lookup = PromptLookup(2, max_ngram_size=3, min_ngram_size=1)
        assert list(lookup(np.array(tokens, np.intc))) == wanted


def test_lookups_that_cannot_be() -> None:
    for values in ((0, 6, 3), (-1, 6, 3), (4, 6, 0), (4, 0, 1), (4, 4, 5)):
        with pytest.raises(ParameterError, match="choose"):
            PromptLookup(*values)


def test_a_lookup_with_llama_cpp_pythons_arguments() -> None:
    """LlamaPromptLookupDecoding has max_ngram_size=2 and num_pred_tokens=10 as its defaults."""
    lookup = PromptLookup(max_ngram_size=2, num_pred_tokens=10)
    assert list(lookup(np.array([1, 2, 3, 4, 1, 2], np.intc)))[:2] == [3, 4]


@pytest.mark.parametrize("name", ["mamba", "t5", "bert"])
def test_models_that_cannot_draft(tiny_path: Callable[[str], Path], name: str) -> None:
    with Model(tiny_path(name), backend="cpu") as model:
        with pytest.raises(ParameterError, match="num_pred_tokens"):
            DraftModel(model, 0)
        with pytest.raises(UnsupportedError, match="draft"):
            DraftModel(model, n_threads=1)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama", {"n_outputs_max": 1}),
        ("llama", {"n_batch": 1}),
        ("mamba", {}),
        ("mamba", {"n_recurrent_snapshots": 4}),  # llama.cpp keeps none for this architecture
    ],
)
def test_contexts_that_cannot_check_drafts(
    tiny_path: Callable[[str], Path], name: str, parameters: dict[str, Any]
) -> None:
    with (
        Model(tiny_path(name), backend="cpu") as model,
        model.context(n_ctx=64, n_threads=1, **parameters) as context,
        pytest.raises(UnsupportedError, match="n_outputs_max"),
    ):
        list(run_drafted(context, generation(model, "hello", ignore_eos=True), lambda ids: [5, 6]))
