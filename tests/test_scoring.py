"""What the model thinks of a prompt: against one decode for each of its tokens, and numpy."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacffi import Context, Llama, Model, SamplerChain, SamplingParams
from llamacffi.errors import CancelledError, EmptyInputError, InvalidTokenError, UnsupportedError
from llamacffi.generation import Generation, prepare, run
from llamacffi.scoring import score_prompt
from tests.completions import PROMPT, complete, joined, stream
from tests.tiny_models import ARCHITECTURES, write_model

TEXT = "The quick brown fox jumps over the lazy dog; é東🧑 says: it is 42 o'clock, and all is well."
TOLERANCE = 1e-3  # the logits themselves differ in their last digits, by how many come at once
NO_SCORES = ("t5", "bert")


def expected(model: Model, tokens: list[int]) -> Any:
    """Log probabilities at each position, float64 of shape (n_tokens, n_vocab)."""
    rows = []
    with model.context(n_ctx=512, n_threads=1) as context:
        for position, token in enumerate(tokens):
            context.decode_token(token, position)
            wide = context.logits().astype(np.float64)
            wide -= wide.max()
            rows.append(wide - np.log(np.exp(wide).sum()))
    return np.array(rows)


def check(scores: Any, tokens: list[int], wanted: Any, count: int) -> None:
    assert [score.token for score in scores] == tokens[1:]
    for score, row in zip(scores, wanted, strict=False):
        assert score.logprob == pytest.approx(row[score.token], abs=TOLERANCE)
        values = [value for _, value in score.top]
        assert values == sorted(values, reverse=True)
        assert values == pytest.approx(np.sort(row)[::-1][:count], abs=TOLERANCE)
        ids = [token for token, _ in score.top]
        assert len(set(ids)) == count
        assert values == pytest.approx(row[ids], abs=TOLERANCE)


def scored(model: Model, tokens: list[int], **parameters: Any) -> Generation:
    chain = parameters.pop("chain", None) or SamplerChain(model, ["greedy"])
    parameters = {"max_tokens": 0, "prompt_logprobs": True, "logprobs": 2, **parameters}
    return Generation(model.vocab, chain, tokens, **parameters)


@pytest.fixture(scope="module")
def tokens(model: Model) -> list[int]:
    return model.vocab.tokenize(TEXT)


@pytest.fixture(scope="module")
def wanted(model: Model, tokens: list[int]) -> Any:
    return expected(model, tokens)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"n_outputs_max": 1},
        {"n_outputs_max": 5},
        {"n_outputs_max": 32},
        {"n_batch": 4},
        {"n_batch": 7, "n_outputs_max": 5},
        {"n_ubatch": 3},
        {"n_outputs_max": 256},
        {"embeddings": True},
    ],
    ids=repr,
)
def test_the_chunks_do_not_matter(
    model: Model, tokens: list[int], wanted: Any, parameters: dict[str, Any]
) -> None:
    with model.context(**{"n_ctx": 256, "n_threads": 2, **parameters}) as context:
        check(score_prompt(context, tokens, 3), tokens, wanted, 3)
        assert context.memory.tokens() == tokens


@pytest.fixture(scope="module")
def path_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("scoring")

    def path(architecture: str) -> Path:
        return write_model(folder / f"{architecture}.gguf", architecture)

    return path


@pytest.fixture
def tiny(request: pytest.FixtureRequest, path_of: Callable[[str], Path]) -> Iterator[Model]:
    with Model(path_of(request.param), backend="cpu") as loaded:
        yield loaded


@pytest.mark.parametrize("tiny", [n for n in ARCHITECTURES if n not in NO_SCORES], indirect=True)
@pytest.mark.parametrize("size", [3, 32])
def test_every_architecture(tiny: Model, size: int) -> None:
    tokens = tiny.vocab.tokenize("once upon a time hello the and " * 3)
    with tiny.context(n_ctx=128, n_threads=1, n_outputs_max=size) as context:
        check(score_prompt(context, tokens, 4), tokens, expected(tiny, tokens), 4)
        answer = scored(tiny, tokens, max_tokens=6, ignore_eos=True)
        found = [step.token for step in run(context, answer)]
        context.memory.clear()
        plain = scored(tiny, tokens, max_tokens=6, ignore_eos=True, prompt_logprobs=False)
        assert [step.token for step in run(context, plain)] == found


@pytest.mark.parametrize("tiny", NO_SCORES, indirect=True)
def test_a_model_with_an_encoder(tiny: Model) -> None:
    with (
        tiny.context(n_ctx=64, n_threads=1) as context,
        pytest.raises(UnsupportedError),
    ):
        list(run(context, scored(tiny, [5, 6, 7])))


def test_a_prompt_only(model: Model, context: Context, tokens: list[int], wanted: Any) -> None:
    answer = scored(model, tokens)
    assert list(run(context, answer)) == []
    check(answer.prompt_scores, tokens, wanted, 2)
    assert answer.finish_reason == "length"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (
        len(tokens), 0, 0,
    )  # fmt: skip
    assert context.memory.tokens() == tokens


def test_no_alternatives(model: Model, context: Context, tokens: list[int], wanted: Any) -> None:
    for logprobs in (None, 0):
        answer = scored(model, tokens, logprobs=logprobs)
        assert list(run(context, answer)) == []
        check(answer.prompt_scores, tokens, wanted, 0)


def test_what_was_remembered_does_not_matter(
    model: Model, context: Context, tokens: list[int], wanted: Any
) -> None:
    context.decode_tokens([*tokens[:7], 99, 98])
    first = scored(model, tokens, max_tokens=4)
    found = [step.token for step in run(context, first)]
    check(first.prompt_scores, tokens, wanted, 2)
    second = scored(model, tokens, max_tokens=4, prompt_logprobs=False)
    assert [step.token for step in run(context, second)] == found
    assert second.usage.cached_tokens == len(tokens) - 1
    assert second.prompt_scores == []


def test_bans_and_processors_do_not_matter(
    model: Model, context: Context, tokens: list[int], wanted: Any
) -> None:
    def upset(ids: Any, logits: Any) -> None:
        logits[:] = -np.inf
        logits[700] = 0

    params = SamplingParams(
        temperature=0, processors=[upset], logit_bias={700: 5.0, tokens[1]: False}
    )
    answer = scored(
        model, tokens, chain=params.chain(model), max_tokens=2, ignore_eos=True, min_tokens=1
    )
    steps = list(run(context, answer))
    assert [step.token for step in steps] == [700, 700]
    check(answer.prompt_scores, tokens, wanted, 2)
    assert steps[0].logprobs is not None
    assert steps[0].logprobs.logprob == pytest.approx(wanted[-1][700], abs=TOLERANCE)


def test_another_sequence(model: Model, tokens: list[int], wanted: Any) -> None:
    with model.context(n_ctx=512, n_seq_max=2, n_threads=2) as context:
        context.decode_tokens([5, 6, 7], sequence=0)
        check(score_prompt(context, tokens, 1, sequence=1), tokens, wanted, 1)
        assert context.memory.tokens(0) == [5, 6, 7]
        assert context.memory.tokens(1) == tokens


def test_one_token(model: Model, context: Context) -> None:
    answer = scored(model, [5])
    assert list(run(context, answer)) == []
    assert answer.prompt_scores == []


def test_texts_that_cannot_be(model: Model, context: Context) -> None:
    for tokens, error in (([], EmptyInputError), ([5, -1], InvalidTokenError)):
        with pytest.raises(error):
            scored(model, tokens)


def test_a_text_as_long_as_the_context(model: Model) -> None:
    """Nothing is to follow it, so that it may fill the context."""
    with model.context(n_ctx=256, n_threads=2) as context:
        tokens = [500 + i for i in range(context.n_ctx_seq)]
        answer = scored(model, tokens)
        assert list(run(context, answer)) == []
        assert len(answer.prompt_scores) == len(tokens) - 1


def test_cancelled_in_between(model: Model, tokens: list[int], wanted: Any) -> None:
    with model.context(n_ctx=512, n_threads=1, n_outputs_max=1) as context:

        def cancel() -> None:
            while context.memory.position_max() < 10:
                time.sleep(0.001)
            context.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(CancelledError):
            prepare(context, scored(model, (tokens * 20)[:500]))
        canceller.join()
        assert context.memory.position_max() == -1
        assert context.memory.tokens() == []
        check(score_prompt(context, tokens, 2), tokens, wanted, 2)


# -- of a completion -------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
def test_a_prompt_is_scored(llama: Llama, streaming: bool) -> None:
    tokens = llama.tokenize(PROMPT)
    parameters: dict[str, Any] = {"echo": True, "logprobs": 2, "max_tokens": 0}
    llama.reset()
    if streaming:
        choice = joined(stream(llama, **parameters))
    else:
        result = complete(llama, **parameters)
        (choice,) = result["choices"]
        assert result["usage"]["completion_tokens"] == 0
        assert json.loads(json.dumps(result)) == result
    assert (choice["text"], choice["finish_reason"]) == (PROMPT, "length")
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == PROMPT
    assert {len(values) for values in found.values()} == {len(tokens)}
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    llama.reset()
    for position, token in enumerate(tokens[:-1]):
        llama.context.decode_token(token, position)
        wide = llama.context.logits().astype(np.float64)
        wide -= wide.max() + np.log(np.exp(wide - wide.max()).sum())
        assert found["token_logprobs"][position + 1] == pytest.approx(
            wide[tokens[position + 1]], abs=1e-3
        )
        top = found["top_logprobs"][position + 1]
        assert 2 <= len(top) <= 3
        assert max(top.values()) == pytest.approx(wide.max(), abs=1e-3)


def test_a_prompt_and_its_answer_are_scored(llama: Llama) -> None:
    answer = complete(llama, logprobs=2)["choices"][0]["logprobs"]
    whole = complete(llama, logprobs=2, echo=True)["choices"][0]["logprobs"]
    prompt = complete(llama, logprobs=2, echo=True, max_tokens=0)["choices"][0]["logprobs"]
    for key in ("tokens", "text_offset"):
        assert whole[key] == prompt[key] + answer[key]
    values = prompt["token_logprobs"] + answer["token_logprobs"]
    assert whole["token_logprobs"][1:] == pytest.approx(values[1:], abs=1e-3)


def test_a_scored_prompt_of_tokens(llama: Llama) -> None:
    tokens = llama.tokenize(PROMPT)
    chat = complete(llama, tokens, logprobs=True, top_logprobs=1, echo=True, max_tokens=0)
    content = chat["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == PROMPT[len("The") :]
    one = complete(llama, tokens[:1], logprobs=1, echo=True, max_tokens=0)
    assert one["choices"][0]["logprobs"]["token_logprobs"] == [None]


def test_a_scored_prompt_of_several_answers(llama: Llama) -> None:
    result = complete(llama, n=2, logprobs=1, echo=True, max_tokens=2, seed=1, temperature=1)
    first, second = (choice["logprobs"] for choice in result["choices"])
    assert first["token_logprobs"][:5] == second["token_logprobs"][:5]
    chunks = list(stream(llama, n=2, logprobs=1, echo=True, max_tokens=2, seed=1, temperature=1))
    for choice in result["choices"]:
        parts = joined(iter(chunks), choice["index"])
        assert parts["text"] == choice["text"]
        assert parts["logprobs"]["tokens"] == choice["logprobs"]["tokens"]
