"""Branches: texts on an engine that grow, go back and divide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llamacffi import Branch, Engine, Llama, Model, SamplingParams
from llamacffi.errors import ContextFullError, EmptyInputError, ParameterError
from tests.engines import complete, engine_on, settled, text_of, together

GREEDY = SamplingParams(temperature=0)
RANDOM = SamplingParams(temperature=1.0, seed=3)


@pytest.fixture
def engine(exact_llama: Llama) -> Iterator[Engine]:
    with engine_on(exact_llama.model, n_ctx=1024) as made:
        yield made


def test_a_branch_is_a_text_that_grows(engine: Engine) -> None:
    branch = engine.branch("hello")
    before = branch.tokens
    text = branch.generate(6, sampling=GREEDY)
    assert branch.tokens[: len(before)] == before
    assert len(branch) == len(before) + 6
    prompt = branch.tokens
    more = branch.generate(6, sampling=GREEDY)
    assert complete(engine, before, max_tokens=12, ignore_eos=False)["choices"][0]["text"]
    assert text_of(complete(engine, prompt, max_tokens=6, ignore_eos=False)) == more
    assert branch.text.endswith(more) or "�" in text + more


def test_streams_and_wholes_are_the_same(engine: Engine) -> None:
    branches = [engine.branch("abc"), engine.branch("abc")]
    assert "".join(branches[0].stream(9, sampling=RANDOM)) == branches[1].generate(
        9, sampling=RANDOM
    )
    assert branches[0].tokens == branches[1].tokens


def test_a_stream_that_is_left_keeps_what_came(engine: Engine) -> None:
    branch = engine.branch("abc")
    before = len(branch)
    stream = branch.stream(300, sampling=SamplingParams(temperature=0, logit_bias={65: 50.0}))
    next(stream)
    stream.close()
    assert before < len(branch) < before + 300
    assert settled(engine).totals.cancelled == 1


def test_forks_share_what_they_have_in_common(engine: Engine) -> None:
    root = engine.branch([5 + place % 50 for place in range(100)])
    root.generate(1, sampling=GREEDY)
    before = settled(engine).totals
    forks = [root.fork().feed([seed]) for seed in range(6, 12)]
    texts = together([lambda fork=fork: fork.generate(4, sampling=GREEDY) for fork in forks])
    assert all(isinstance(text, str) for text in texts)
    after = settled(engine).totals
    # Each its own token and those that it generated; of the shared ones, the last.
    assert after.computed_tokens - before.computed_tokens <= 6 * (1 + 4) + 1
    assert len(root) == 101


def test_going_back(engine: Engine) -> None:
    branch = engine.branch("hello")
    before = branch.tokens
    first = branch.generate(5, sampling=GREEDY)
    branch.rewind(5)
    assert branch.tokens == before
    assert branch.generate(5, sampling=GREEDY) == first
    assert branch.rewind(0).tokens == branch.tokens
    for wrong in (-1, len(branch) + 1):
        with pytest.raises(ParameterError):
            branch.rewind(wrong)


def test_the_best_of_several(engine: Engine) -> None:
    root = engine.branch("hello")
    before = root.tokens
    best = root.n_best(5, 4, sampling=RANDOM)
    values = [branch.logprob for branch in best]
    assert None not in values
    assert values == sorted(values, key=float, reverse=True)  # type: ignore[arg-type]  # see above
    assert len({tuple(branch.tokens) for branch in best}) > 1
    assert all(branch.tokens[: len(before)] == before for branch in best)
    assert root.tokens == before
    assert root.logprob is None
    again = root.n_best(5, 4, sampling=RANDOM)
    assert [branch.tokens for branch in again] == [branch.tokens for branch in best]
    with pytest.raises(ParameterError):
        root.n_best(0)


def test_stops_are_left_out(engine: Engine) -> None:
    letters: dict[str, Any] = {"logit_bias": dict.fromkeys(range(3, 30), False)}
    text = engine.branch("ab").generate(20, sampling=SamplingParams(temperature=0, **letters))
    tokens = engine.branch("ab")
    tokens.generate(20, sampling=SamplingParams(temperature=0, **letters))
    third = tokens.tokens[len(engine.branch("ab")) + 2]
    stopped = engine.branch("ab")
    stopped.generate(20, sampling=SamplingParams(temperature=0, **letters), stop=third)
    assert third not in stopped.tokens[len(engine.branch("ab")) :]
    letter = next(character for character in text[3:] if character.isprintable())
    cut = engine.branch("ab")
    shown = cut.generate(20, sampling=SamplingParams(temperature=0, **letters), stop=letter)
    assert letter not in shown
    assert shown == text[: text.index(letter)]
    assert len(cut) < len(tokens)


def test_what_cannot_go_on(engine: Engine, tiny_llama: Model) -> None:
    with pytest.raises(EmptyInputError):
        Branch(engine).generate(3)
    with pytest.raises(ContextFullError):
        engine.branch([5] * 1024).generate(3)
    branch = engine.branch([5] * 1020)
    branch.generate(300, sampling=SamplingParams(temperature=0, logit_bias={65: 50.0}))
    assert len(branch) == 1024
