"""Speculative decoding: whatever a drafter proposes, what comes out is what comes without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacffi import DraftModel, Llama, Model, PromptLookup, SamplingParams
from llamacffi.errors import (
    CancelledError,
    ClosedError,
    DecodeError,
    LlamaCffiError,
    SamplingError,
    UnsupportedError,
)
from llamacffi.native.handle import live_handles
from tests.tiny_models import ARCHITECTURES, write_model

PROMPT = "once upon a time hello"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
OPTIONS: dict[str, Any] = {"backend": "cpu", "n_ctx": 256, "n_threads": 1}
BANNED = -float("inf")


def complete(llama: Llama, prompt: Any = PROMPT, **parameters: Any) -> dict[str, Any]:
    result = llama.create_completion(prompt, **{**GREEDY, **parameters})
    assert isinstance(result, dict)
    return result


def stream(llama: Llama, prompt: Any = PROMPT, **parameters: Any) -> Any:
    return llama.create_completion(prompt, **{**GREEDY, **parameters}, stream=True)


def predictions(result: dict[str, Any]) -> tuple[int, int]:
    """How many drafted tokens were accepted and rejected."""
    details = result["usage"]["completion_tokens_details"]
    return details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]


class Oracle:
    """Knows what will come, and is wrong where it is told to be.

    Args:
        truth: The tokens, prompt included.
        count: How many to propose.
        wrong: "1" for a wrong token, "0" for a right one, over and over.
    """

    def __init__(self, truth: Sequence[int], count: int = 4, wrong: str = "0") -> None:
        self.truth, self.count, self.wrong, self.asked = truth, count, wrong, 0

    def __call__(self, tokens: Any, /) -> list[int]:
        assert tokens.dtype == np.intc
        assert tokens.tolist() == list(self.truth[: tokens.size])
        draft = list(self.truth[tokens.size : tokens.size + self.count])
        start, self.asked = self.asked, self.asked + len(draft)
        errors = [int(self.wrong[at % len(self.wrong)]) for at in range(start, self.asked)]
        return [(x + 1) % 200 if wrong else x for x, wrong in zip(draft, errors, strict=True)]


class Pair:
    """One model twice, without and with a drafter, which can be changed."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.drafter: Any = None
        self.plain = Llama(path, **{**OPTIONS, **options})
        self.used = Llama(path, **{**OPTIONS, **options}, draft_model=self._draft)

    def _draft(self, tokens: Any, /) -> Any:
        return () if self.drafter is None else self.drafter(tokens)

    def close(self) -> None:
        self.plain.close()
        self.used.close()

    def truth(self, prompt: Any = PROMPT, **parameters: Any) -> list[int]:
        """The prompt's tokens and those that come without a drafter."""
        seen: list[list[int]] = []

        def look(tokens: Any, logits: Any) -> None:
            seen.append(tokens.tolist())

        processors = [look, *filter(None, [parameters.get("logits_processor")])]
        parameters |= {"logits_processor": processors, "stopping_criteria": look}
        complete(self.plain, prompt, **parameters)
        return max(seen, key=len)

    def check(self, drafter: Any, prompt: Any = PROMPT, **parameters: Any) -> dict[str, Any]:
        """Complete with and without the drafter: the same has to come out."""
        self.drafter = None
        wanted = complete(self.plain, prompt, **parameters)
        self.drafter = drafter
        found = complete(self.used, prompt, **parameters)
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert found["usage"][name] == wanted["usage"][name]
        for mine, its in zip(found["choices"], wanted["choices"], strict=True):
            mine, its = dict(mine), dict(its)
            scores, expected = mine.pop("logprobs") or {}, its.pop("logprobs") or {}
            assert mine == its
            assert scores.get("tokens") == expected.get("tokens")
            values, right = (x.get("token_logprobs", []) for x in (scores, expected))
            for one, other in zip(values, right, strict=True):
                assert (one is None) == (other is None)
                assert one is None or one == pytest.approx(other, abs=1e-3)
        return found

    def check_still(self) -> None:
        """Nothing of what was tried before is left."""
        for prompt in (PROMPT, PROMPT + " the"):
            self.check(Oracle(self.truth(prompt), 4, "001"), prompt)


@pytest.fixture(scope="module")
def path_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("drafting")

    def path(architecture: str) -> Path:
        file = folder / f"{architecture}.gguf"
        return file if file.exists() else write_model(file, architecture)

    return path


@pytest.fixture(scope="module")
def both(path_of: Callable[[str], Path]) -> Iterator[Pair]:
    with closing(Pair(path_of("llama"))) as made:
        yield made


@pytest.fixture
def pair(both: Pair) -> Iterator[Pair]:
    yield both
    both.drafter = None
    both.used.reset()


# -- the same as without --------------------------------------------------------------------------


def alternating(tokens: Any, logits: Any) -> None:
    """Bans by the tokens so far, so that a wrong history shows."""
    logits[int(tokens.sum()) % 7 :: 7] = BANNED


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "seed": {"temperature": 1.5, "seed": 11},
    "penalties": {"temperature": 0.9, "seed": 3, "repeat_penalty": 1.5, "presence_penalty": 0.4},
    "dry": {"sampling": SamplingParams(dry_multiplier=2.0, seed=5), "temperature": 0.7},
    "mirostat": {"temperature": 1.0, "seed": 4, "mirostat_mode": 2},
    "grammar": {"grammar": 'root ::= ("ab" | "ba" | "the ")+', "seed": 5, "temperature": 1.0},
    "schema": {"response_format": {"type": "json_object"}, "seed": 6, "temperature": 1.0},
    "processor": {"logits_processor": alternating, "temperature": 1.0, "seed": 8},
    "bias": {"logit_bias": {"300": 2.5, 301: False}},
    "logprobs": {"logprobs": 3},
    "echo": {"logprobs": 2, "echo": True},
    "min_tokens": {"ignore_eos": False, "min_tokens": 9, "logit_bias": {2: 1000}},
    "stop token": {"stop": list(range(60, 90)), "min_tokens": 6, "temperature": 1.0, "seed": 2},
}


@pytest.mark.parametrize("wrong", ["0", "1", "01", "001", "0001000"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_same_as_without(pair: Pair, setting: str, wrong: str) -> None:
    parameters = SETTINGS[setting]
    oracle = Oracle(pair.truth(**parameters), 5, wrong)
    found = pair.check(oracle, **parameters)
    accepted, rejected = predictions(found)
    assert (accepted == 0) == (wrong == "1" or found["usage"]["completion_tokens"] < 2)
    assert rejected == 0 or wrong != "0" or found["choices"][0]["finish_reason"] == "stop"
    texts = [chunk["choices"][0]["text"] for chunk in stream(pair.used, **parameters)]
    assert "".join(texts) == found["choices"][0]["text"]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 31, 32, 1000])
def test_any_number_of_tokens(pair: Pair, count: int) -> None:
    oracle = Oracle(pair.truth(max_tokens=70), count)
    accepted, rejected = predictions(pair.check(oracle, max_tokens=70))
    assert rejected == 0
    checked = min(count, 31) + 1  # in one decode, with the token that comes behind the draft
    assert 70 / checked <= 70 - accepted <= 70 / checked + 2


@pytest.mark.parametrize("name", sorted({*ARCHITECTURES} - {"mamba", "jamba", "bert"}))
def test_every_architecture(path_of: Callable[[str], Path], name: str) -> None:
    with closing(Pair(path_of(name))) as pair:
        for prompt in (PROMPT, PROMPT * 3, PROMPT + " the"):
            truth = pair.truth(prompt, max_tokens=40)
            for wrong in ("0001", "01", "1"):
                pair.plain.reset()
                pair.check(Oracle(truth, 6, wrong), prompt, max_tokens=40)


@pytest.mark.parametrize("swa_full", [True, False])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 31])
def test_around_a_sliding_window(
    path_of: Callable[[str], Path], count: int, swa_full: bool
) -> None:
    with closing(Pair(path_of("gemma3"), n_ubatch=8, swa_full=swa_full)) as pair:
        truth = pair.truth(max_tokens=120)
        for wrong in ("1", "0" * 20 + "1"):
            pair.check(Oracle(truth, count, wrong), max_tokens=120)
        pair.check_still()


@pytest.mark.parametrize("parameters", [{"n": 3}, {"n": 2, "best_of": 3}])
def test_several_answers(pair: Pair, parameters: dict[str, Any]) -> None:
    lookup = PromptLookup(max_ngram_size=1, min_ngram_size=1)
    found = pair.check(lookup, temperature=1.0, seed=21, **parameters)
    assert sum(predictions(found)) > 0


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", range(1, 9))
@pytest.mark.parametrize("wrong", ["0", "001"])
def test_max_tokens_is_met(pair: Pair, limit: int, wrong: str) -> None:
    found = pair.check(Oracle(pair.truth(), 3, wrong), max_tokens=limit)
    assert found["usage"]["completion_tokens"] == limit


@pytest.mark.parametrize("room", range(1, 8))
@pytest.mark.parametrize("wrong", ["0", "001", "1"])
def test_the_context_ends_within_a_draft(pair: Pair, room: int, wrong: str) -> None:
    prompt = [5 + i % 200 for i in range(pair.plain.n_ctx() - room)]
    oracle = Oracle(pair.truth(prompt, max_tokens=None), 5, wrong)
    found = pair.check(oracle, prompt, max_tokens=None)
    assert found["usage"]["completion_tokens"] == room


@pytest.mark.parametrize("after", range(1, 9))
@pytest.mark.parametrize("drafted", [True, False])
def test_the_model_ends_within_a_draft(pair: Pair, after: int, drafted: bool) -> None:
    start, eos = len(pair.plain.tokenize(PROMPT)), pair.plain.token_eos()

    def end(tokens: Any, logits: Any) -> None:
        if len(tokens) == start + after:
            logits[eos] = 1000

    parameters: dict[str, Any] = {"logits_processor": end, "ignore_eos": False}
    truth = pair.truth(**parameters) + ([eos] if drafted else [])
    found = pair.check(lambda ids: [*truth[ids.size : ids.size + 3], 7, 8], **parameters)
    assert found["usage"]["completion_tokens"] == after
    assert predictions(found)[0] <= after
    assert eos not in pair.used.context.memory.tokens()


@pytest.mark.parametrize("start", range(1, 12))
@pytest.mark.parametrize("count", [2, 7])
def test_stop_strings_across_drafts(pair: Pair, start: int, count: int) -> None:
    parameters: dict[str, Any] = {"grammar": 'root ::= "the hello and once upon a time " [a-z]*'}
    whole = complete(pair.plain, **parameters)["choices"][0]["text"]
    parameters["stop"] = [whole[start : start + 5], "never"]
    drafter = Oracle(pair.truth(grammar=parameters["grammar"]), count)
    found = pair.check(drafter, **parameters)
    assert found["choices"][0]["text"] == whole[: whole.index(parameters["stop"][0])]
    texts = [chunk["choices"][0]["text"] for chunk in stream(pair.used, **parameters)]
    assert "".join(texts) == found["choices"][0]["text"]


def test_a_criterion_sees_the_logits_of_its_token(pair: Pair) -> None:
    seen: list[Any] = []

    def look(tokens: Any, logits: Any) -> bool:
        seen.append(logits.copy())
        return tokens.size == len(truth) - 5

    truth = pair.truth()
    pair.check(Oracle(truth, 4, "00001"), stopping_criteria=look)
    wanted, found = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    for mine, its in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-3)


@pytest.mark.parametrize("wrong", ["0", "1", "01", "0010"])
def test_the_statistics_add_up(pair: Pair, wrong: str) -> None:
    oracle, checked = Oracle(pair.truth(max_tokens=60), 3, wrong), []
    most = len(oracle.truth) - 1  # nothing is drafted that would have to be thrown away

    def count(tokens: Any) -> list[int]:
        draft = oracle(tokens)
        checked.append(min(len(draft), most - tokens.size))
        return draft

    assert sum(predictions(pair.check(count, max_tokens=60))) == sum(checked)


def test_a_drafted_token_that_ends_the_text_was_picked(pair: Pair) -> None:
    grammar = 'root ::= "ABCDEFGH"'
    found = pair.check(Oracle(pair.truth(grammar=grammar), 3), grammar=grammar, stop="D")
    assert found["choices"][0]["text"] == "ABC"
    assert predictions(found) == (3, 0)  # A came undrafted; B, C and D were the draft


# -- drafters that misbehave ----------------------------------------------------------------------

SEQUENCES = [
    [], (), np.array([], np.int64), np.array([], np.float64), [5] * 10_000,
    np.array([5, 6], np.int64), np.array([5, 6], np.uint8), (5, np.int32(6)), [0, 1, 2], range(9),
]  # fmt: skip
GARBAGE = [
    [10**9], [5, -1], [378], [2**64], [1.5], np.array([5.0]), np.array([[5, 6]]), np.array(5),
    None, 5, "abc", [None], ["a"],
]  # fmt: skip


@pytest.mark.parametrize("proposal", SEQUENCES, ids=repr)
def test_any_kind_of_sequence(pair: Pair, proposal: Any) -> None:
    assert predictions(pair.check(lambda tokens: proposal))[0] == 0


@pytest.mark.parametrize("proposal", GARBAGE, ids=repr)
def test_proposals_that_cannot_be(pair: Pair, proposal: Any) -> None:
    """Refused, with an error that names what is to blame; the Llama works on."""
    pair.drafter = lambda tokens: proposal
    with pytest.raises((LlamaCffiError, TypeError)) as caught:
        complete(pair.used)
    pair.check_still()
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert "draft" in told.lower()


@pytest.mark.parametrize("what", ["raise", "cancel", "write", "nest"])
def test_drafters_that_do_harm(pair: Pair, what: str) -> None:
    truth = pair.truth()

    def careless(tokens: Any) -> Any:
        if tokens.size < len(truth) - 12:
            return truth[tokens.size : tokens.size + 2]
        pair.drafter = None
        if what == "raise":
            raise KeyError("mine")
        if what == "write":
            tokens[0] = 9
        if what == "nest":
            complete(pair.used, "hello", max_tokens=2)
        if what == "cancel":
            pair.used.context.cancel()
        return [5]

    pair.drafter = careless
    errors = {"raise": KeyError, "write": ValueError, "cancel": CancelledError}
    with pytest.raises(errors.get(what, LlamaCffiError)):
        complete(pair.used)
    pair.check_still()


@pytest.mark.parametrize("after", range(1, 9))
@pytest.mark.parametrize("what", ["logits_processor", "stopping_criteria", "everything banned"])
def test_an_exception_within_a_draft(pair: Pair, after: int, what: str) -> None:
    """The stream brings what came before it, as it does without a drafter."""
    start = len(pair.plain.tokenize(PROMPT))

    def careless(tokens: Any, logits: Any) -> Any:
        if len(tokens) == start + after:
            if what != "everything banned":
                raise KeyError("mine")
            logits[:] = BANNED

    def read(llama: Llama) -> str:
        texts: list[str] = []
        name = what if what == "stopping_criteria" else "logits_processor"
        with pytest.raises((KeyError, SamplingError)):
            for chunk in stream(llama, ignore_eos=False, **{name: careless}):
                texts.append(chunk["choices"][0]["text"])  # noqa: PERF401 - it raises
        return "".join(texts)

    pair.drafter = Oracle(pair.truth(), 3)
    wanted, found = read(pair.plain), read(pair.used)
    pair.check_still()
    assert found == wanted


def test_a_processor_that_keeps_what_it_is_given(pair: Pair) -> None:
    """Its arrays are views; where they would have to move, the decode is refused."""
    kept: list[Any] = []
    with closing(Pair(Path(pair.plain.model_path))) as fresh:
        oracle = Oracle(fresh.truth(), 4)
        with pytest.raises(DecodeError, match="still in use"):
            fresh.check(oracle, logits_processor=lambda ids, logits: kept.append((ids, logits)))
        kept.clear()
        fresh.check(oracle)


@pytest.mark.parametrize("read", range(1, 12))
@pytest.mark.parametrize("closes", [True, False])
def test_a_stream_left_within_a_draft(pair: Pair, read: int, closes: bool) -> None:
    truth = pair.truth()
    pair.drafter = Oracle(truth, 4, "0000001")
    pieces = stream(pair.used)
    for _ in range(read):
        next(pieces)
    if closes:
        pieces.close()
    known = pair.used.context.memory.tokens()
    assert known == truth[: len(known)]
    assert pair.used.context.memory.position_max() == len(known) - 1
    pair.check_still()


# -- drafters -------------------------------------------------------------------------------------


def test_a_model_drafts_for_itself(pair: Pair) -> None:
    drafting = DraftModel(pair.plain.model, n_threads=1)
    for prompt in (PROMPT, PROMPT + " the", "hello"):
        accepted, rejected = predictions(pair.check(drafting, prompt, max_tokens=41))
        assert (accepted, rejected) == (32, 0)  # of each five tokens four, of the first none
    drafting.close()


def test_draft_models_of_another_kind(path_of: Callable[[str], Path], pair: Pair) -> None:
    """A smaller vocabulary, a sliding window, a short context: worse drafts, and that is all."""
    for name, n_ctx in (("gpt2", 0), ("gemma3", 0), ("phi3", 32)):
        with Model(path_of(name), backend="cpu") as model:
            drafting = DraftModel(model, 6, n_ctx=n_ctx, n_threads=1)
            pair.check(drafting, max_tokens=50)
            pair.check(drafting, PROMPT * 10, max_tokens=50)
            drafting.close()


def test_a_draft_model_that_was_closed(pair: Pair) -> None:
    before = live_handles()
    drafting = DraftModel(pair.plain.model, n_threads=1)
    drafting.close()
    drafting.close()
    pair.drafter = drafting
    with pytest.raises(ClosedError):
        complete(pair.used)
    pair.check_still()
    assert live_handles() == before


def test_a_recurrent_model(path_of: Callable[[str], Path]) -> None:
    with closing(Pair(path_of("mamba"))) as pair, pytest.raises(UnsupportedError, match="draft"):
        pair.check(PromptLookup())


def test_the_real_model(model_path: Path) -> None:
    with closing(Pair(model_path)) as pair:
        repeating = "a b c d e f " * 3 + "a b"
        assert predictions(pair.check(PromptLookup(), repeating, logprobs=2))[0] >= 12
        pair.check(PromptLookup(), repeating, temperature=1.0, seed=4)
        found = pair.check(lambda ids: [5000 + ids.size, 7, 8], "The capital of France is")
        assert predictions(found) == (0, 3 * 20 + 2 + 1)  # less and less room for the last three
