"""An interrupted answer that goes on from the tokens it has."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llamacffi import Context, Model, SamplingParams
from llamacffi.errors import InvalidTokenError
from llamacffi.generation import Generation, run

PROMPT = "Once upon a time there was a"
TOTAL, BEGUN = 12, 7
MANNERS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "random": {"temperature": 1.5, "seed": 3},
    "penalties": {"temperature": 1.0, "repeat_penalty": 1.3, "presence_penalty": 1.0, "seed": 4},
    "typical": {"temperature": 1.0, "typical_p": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
                "seed": 5},
}  # fmt: skip
# What these remember of a token is more than the token: how surprising it was, whether it was the
# first that was picked.
OTHER_MANNERS: dict[str, dict[str, Any]] = {
    "mirostat": {"mirostat_mode": 2, "seed": 6},
    "grammar": {"temperature": 1.0, "grammar": 'root ::= [a-z ]+ "."? [0-9]*', "seed": 7},
}


def generation(model: Model, **parameters: Any) -> Generation:
    tokens = model.vocab.tokenize(PROMPT)
    chain = SamplingParams(**parameters).chain(model)
    return Generation(model.vocab, chain, tokens, max_tokens=TOTAL)


@pytest.mark.parametrize("manner", MANNERS)
def test_it_goes_on_as_if_it_had_not_been_interrupted(context: Context, manner: str) -> None:
    model, parameters = context.model, MANNERS[manner]
    whole = list(run(context, generation(model, **parameters)))
    again = generation(model, **parameters)
    again.follow([step.token for step in whole[:BEGUN]])
    assert list(run(context, again)) == whole


@pytest.mark.parametrize("manner", OTHER_MANNERS)
def test_it_goes_on_somehow(context: Context, manner: str) -> None:
    model, parameters = context.model, OTHER_MANNERS[manner]
    whole = list(run(context, generation(model, **parameters)))
    again = generation(model, **parameters)
    again.follow([step.token for step in whole[:BEGUN]])
    steps = list(run(context, again))
    assert steps[:BEGUN] == whole[:BEGUN]
    assert len(steps) > BEGUN
    if manner == "grammar":
        assert re.fullmatch(r"[a-z ]+\.?[0-9]*", "".join(step.text for step in steps))


def test_the_beginning_is_what_was_said_whatever_the_samplers_prefer(context: Context) -> None:
    unlikely = [900, 901, 902]
    made = generation(context.model, temperature=0.0)
    made.follow(unlikely)
    steps = list(run(context, made))
    assert [step.token for step in steps[:3]] == unlikely
    assert len(steps) == TOTAL


def test_nothing_to_follow_and_what_is_no_token(model: Model) -> None:
    made = generation(model)
    made.follow([])
    assert not made._chain.processors
    with pytest.raises(InvalidTokenError):
        made.follow([10**9])
