"""What a completion can be asked for beside its text: scores, several answers, structure, ends."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacffi import Llama, SamplingParams
from llamacffi.errors import LlamaCffiError, ParameterError, SamplingError, UnsupportedError
from tests.completions import PROMPT, complete, joined, stream, text_of
from tests.conftest import N_THREADS
from tests.tiny_models import write_model

RANDOM: dict[str, Any] = {"temperature": 1.5, "max_tokens": 6, "ignore_eos": True}
MULTI_BYTE = "é東🧑🏽x"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """Has a BOS token, and puts a space before the text."""
    path = write_model(tmp_path_factory.mktemp("completion") / "tiny.gguf")
    with Llama(path, backend="cpu", n_ctx=256, n_threads=1) as made:
        yield made


# -- several answers ------------------------------------------------------------------------------


def test_several_answers(llama: Llama) -> None:
    llama.reset()
    result = complete(llama, n=3, seed=7, **{**RANDOM, "temperature": 3.0})
    assert [choice["index"] for choice in result["choices"]] == [0, 1, 2]
    texts = [choice["text"] for choice in result["choices"]]
    assert len(set(texts)) == 3
    for index, text in enumerate(texts):
        assert text_of(complete(llama, seed=7 + index, **{**RANDOM, "temperature": 3.0})) == text
    usage = result["usage"]
    counts = [usage[f"{what}_tokens"] for what in ("prompt", "completion", "total")]
    assert counts == [5, 18, 23]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    again = complete(llama, n=3, seed=7, **{**RANDOM, "temperature": 3.0})
    assert again["choices"] == result["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 4


def test_the_prompt_of_several_answers_is_computed_once(model_path: Path) -> None:
    with Llama(
        model_path, backend="cpu", n_ctx=512, n_threads=N_THREADS, no_perf=False
    ) as counting:
        complete(counting, "Once upon a time " * 20, n=4, max_tokens=1)
        assert (
            counting.context.performance.n_prompt
            <= len(counting.tokenize("Once upon a time " * 20)) + 4
        )


def test_several_answers_streamed(llama: Llama) -> None:
    parameters: dict[str, Any] = {**RANDOM, "n": 3, "seed": 3, "logprobs": 1}
    result = complete(llama, **parameters)
    chunks = list(stream(llama, **parameters))
    for choice in result["choices"]:
        parts = joined(iter(chunks), choice["index"])
        assert parts["text"] == choice["text"]
        assert parts["finish_reason"] == "length"
        assert parts["logprobs"]["text_offset"] == choice["logprobs"]["text_offset"]


def test_the_best_of_several(llama: Llama) -> None:
    parameters: dict[str, Any] = {**RANDOM, "seed": 11}
    each = complete(llama, n=5, logprobs=0, **parameters)
    means = {c["text"]: np.mean(c["logprobs"]["token_logprobs"]) for c in each["choices"]}
    best = complete(llama, n=2, best_of=5, **parameters)
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    ranked = sorted(means, key=lambda text: -means[text])
    assert [choice["text"] for choice in best["choices"]] == ranked[:2]
    assert all(choice["logprobs"] is None for choice in best["choices"])
    assert best["usage"]["completion_tokens"] == 30
    same = complete(llama, n=5, best_of=5, **parameters)
    assert [choice["text"] for choice in same["choices"]] == list(means)


def test_the_best_is_not_the_empty_one(tiny: Llama) -> None:
    """An answer that ends at once has no tokens to judge it by."""
    draws: list[int] = []

    def end_the_second(ids: Any, logits: Any) -> None:
        if len(ids) == 2:
            draws.append(0)
            logits[tiny.token_eos()] = 1000 if len(draws) == 2 else -np.inf

    parameters: dict[str, Any] = {"temperature": 1, "seed": 1, "max_tokens": 3}
    result = complete(tiny, "h", best_of=3, logits_processor=end_the_second, **parameters)
    assert len(draws) == 3
    assert text_of(result) != ""


@pytest.mark.parametrize(
    "parameters",
    [
        {"n": 0}, {"n": -1}, {"n": 2, "best_of": 1}, {"best_of": 0}, {"best_of": 2, "stream": True},
        {"n": 1.5}, {"n": "2"}, {"n": None},
    ],
    ids=repr,
)  # fmt: skip
def test_numbers_that_cannot_be(tiny: Llama, parameters: dict[str, Any]) -> None:
    with pytest.raises((ParameterError, TypeError)):
        complete(tiny, "hello", **parameters)


def test_seeds_at_the_end_of_their_range(tiny: Llama) -> None:
    for seed in (2**32 - 2, 2**32 - 1, -1, 2**32, 2**63):
        try:
            first = complete(tiny, "hello", n=3, seed=seed, **RANDOM)["choices"]
        except LlamaCffiError as error:
            assert str(seed) in str(error)  # noqa: PT017 - either is right
            continue
        again = complete(tiny, "hello", n=3, seed=seed, **RANDOM)["choices"]
        assert [x == y for x, y in zip(first, again, strict=True)] in ([True] * 3, [False] * 3)


class Counting:
    """A logits processor with a state: bans what it has counted since the text began."""

    def __init__(self) -> None:
        self.count, self.begun = 0, 0

    def begin(self, prompt: Any) -> None:
        self.count, self.begun = 0, self.begun + 1

    def __call__(self, tokens: Any, logits: Any) -> None:
        self.count += 1
        logits[:] = -np.inf
        logits[300 + self.count] = 0


def test_a_processor_begins_with_each_answer(tiny: Llama) -> None:
    wanted = text_of(complete(tiny, "hello", logits_processor=Counting(), max_tokens=4))
    several = complete(tiny, "hello", logits_processor=Counting(), max_tokens=4, n=3)
    assert [choice["text"] for choice in several["choices"]] == [wanted] * 3


def test_a_processor_begins_when_its_stream_does(tiny: Llama) -> None:
    counting = Counting()
    wanted = text_of(complete(tiny, "hello", logits_processor=Counting(), max_tokens=4))
    first = stream(tiny, "hello", logits_processor=counting, max_tokens=4)
    second = stream(tiny, "hello", logits_processor=counting, max_tokens=4)
    assert "".join(map(text_of, first)) == wanted
    assert "".join(map(text_of, second)) == wanted


# -- structure ------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Oslo", "Rome"]}, "size": {"type": "integer", "maximum": 99}},
    "required": ["name", "size"],
    "additionalProperties": False,
}


def test_a_json_schema(llama: Llama) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    parameters: dict[str, Any] = {"response_format": wanted, "max_tokens": 60}
    choice = joined(stream(llama, **parameters))
    assert choice["text"] == text_of(complete(llama, **parameters))
    found = json.loads(choice["text"])
    assert found["name"] in ("Oslo", "Rome")
    assert isinstance(found["size"], int)
    assert choice["finish_reason"] == "stop"


def test_a_json_object(llama: Llama) -> None:
    free = complete(llama, response_format={"type": "json_object"}, max_tokens=40)
    assert text_of(free).lstrip().startswith("{")
    held = {"type": "json_object", "schema": SCHEMA}
    assert "name" in json.loads(text_of(complete(llama, response_format=held, max_tokens=60)))
    text = complete(llama, response_format={"type": "text"})
    assert text_of(text) == text_of(complete(llama))


@pytest.mark.parametrize(
    "form",
    [
        {}, {"type": "xml"}, {"type": None}, "json_object", {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {}}, {"type": "json_schema", "json_schema": None},
        {"type": "json_schema", "json_schema": {"schema": None}},
        {"type": "json_schema", "json_schema": {"schema": 5}},
        {"type": "json_object", "schema": "no schema"},
        ["json_object"], {"type": "json_schema", "json_schema": {"schema": {"type": "strin"}}},
    ],
    ids=repr,
)  # fmt: skip
def test_formats_that_cannot_be(tiny: Llama, form: Any) -> None:
    """Never quietly ignored."""
    with pytest.raises(LlamaCffiError):
        complete(tiny, "hello", response_format=form)


# -- sampling -------------------------------------------------------------------------------------


def test_sampling_parameters_and_arguments(llama: Llama) -> None:
    """An argument that is not at its default takes precedence."""

    def sampled(**parameters: Any) -> str:
        return str(
            llama.create_completion(PROMPT, max_tokens=12, **parameters)["choices"][0]["text"]
        )

    params = SamplingParams(temperature=3.0, seed=5, xtc_probability=0.5, top_k=0, min_p=0)
    first = sampled(sampling=params)
    assert sampled(sampling=params) == first, "its seed was not used"
    assert sampled(sampling=params, seed=6) != first
    assert sampled(sampling=params, temperature=0) == text_of(complete(llama, max_tokens=12))
    grammar = 'root ::= "a" "b" "c"'
    assert sampled(sampling=SamplingParams(grammar=grammar)) == "abc"
    assert sampled(sampling=SamplingParams(grammar=grammar), grammar='root ::= "x"') == "x"
    banned = SamplingParams(temperature=0, logit_bias={llama.tokenize(" Paris")[0]: False})
    assert "Paris" not in sampled(sampling=banned)[:8]


def test_the_parameters_seed_goes_before_the_constructors(tiny: Llama) -> None:
    params = SamplingParams(temperature=3.0, seed=5)
    plain = tiny.create_completion("hello", sampling=params)
    with Llama(tiny.model_path, backend="cpu", n_ctx=256, n_threads=1, seed=9) as seeded:
        assert text_of(seeded.create_completion("hello", sampling=params)) == text_of(plain)
        first = text_of(seeded.create_completion("hello", temperature=3.0))
        assert text_of(seeded.create_completion("hello", temperature=3.0)) == first
        assert text_of(seeded.create_completion("hello", temperature=3.0, seed=9)) == first


def test_biases(llama: Llama) -> None:
    paris = llama.tokenize(" Paris")[0]
    assert text_of(complete(llama)).startswith(" Paris")
    for never in (False, -math.inf, np.False_, -1000):
        for key in (paris, str(paris), np.int64(paris)):
            assert not text_of(complete(llama, logit_bias={key: never})).startswith(" Paris")
    assert (
        text_of(complete(llama, logit_bias={"700": 1000}, max_tokens=1))
        == llama.detokenize([700]).decode()
    )


@pytest.mark.parametrize(
    "bias",
    [
        {"x": 1}, {"5.5": 1}, {5.7: 1}, {None: 1}, {5: "much"}, {5: None}, {-1: 1}, {10**9: 1},
        {5: math.nan}, [[5, 1]], {math.inf: 1}, "5", {5: math.inf},
    ],
    ids=repr,
)  # fmt: skip
def test_biases_that_cannot_be(tiny: Llama, bias: Any) -> None:
    with pytest.raises(LlamaCffiError):
        complete(tiny, "hello", logit_bias=bias)


# -- ends -----------------------------------------------------------------------------------------


def test_stop_tokens(llama: Llama) -> None:
    texts = complete(llama, logprobs=0)["choices"][0]["logprobs"]["tokens"]
    third = llama.tokenize(PROMPT + "".join(texts))[5 + 2]
    for stop in (third, [third], ["never", third], (third, 5)):
        result = complete(llama, stop=stop)
        assert text_of(result) == "".join(texts[:2])
        assert result["choices"][0]["finish_reason"] == "stop"
        assert result["usage"]["completion_tokens"] == 2
        assert "".join(map(text_of, stream(llama, stop=stop))) == text_of(result)


@pytest.mark.parametrize(
    "stop", ["", [""], -1, [10**9], [None], [1.5], True, [True], b"a", [b"a"]], ids=repr
)
def test_stops_that_cannot_be(tiny: Llama, stop: Any) -> None:
    """Bytes look like token ids to Python, and True like 1: neither may pass for them."""
    with pytest.raises((LlamaCffiError, TypeError)):
        complete(tiny, "hello", stop=stop)


def test_a_least_number_of_tokens(llama: Llama) -> None:
    eos = {llama.token_eos(): 1000}
    for least in range(1, 5):
        result = complete(llama, logit_bias=eos, min_tokens=least)
        assert result["usage"]["completion_tokens"] == least
        assert result["choices"][0]["finish_reason"] == "stop"
    whole = complete(llama)
    first = llama.tokenize(" Paris")[0]
    assert text_of(complete(llama, stop=" Paris", min_tokens=1)) == text_of(whole)
    assert not text_of(complete(llama, stop=first, min_tokens=1)).startswith(" Paris")
    for least in (7, -1):
        with pytest.raises(ParameterError, match="min_tokens"):
            complete(llama, min_tokens=least)


@pytest.mark.parametrize("least", range(5))
def test_a_criterion_waits_for_the_least_number(llama: Llama, least: int) -> None:
    asked: list[int] = []

    def stop(ids: Any, logits: Any) -> bool:
        asked.append(len(ids) - 5)
        return True

    result = complete(llama, stopping_criteria=stop, min_tokens=least)
    assert result["usage"]["completion_tokens"] == max(least, 1)
    assert asked == [max(least, 1)]


def test_the_end_is_never_picked(llama: Llama) -> None:
    for bias in ({}, {llama.token_eos(): 1000}):
        result = complete(llama, ignore_eos=True, logit_bias=bias, max_tokens=20)
        assert result["usage"]["completion_tokens"] == 20
        assert result["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("parameters", [{"ignore_eos": True}, {"min_tokens": 5}, {}], ids=repr)
def test_a_grammar_at_its_end(tiny: Llama, parameters: dict[str, Any]) -> None:
    for extra in ({}, {"logprobs": 2}, {"temperature": 1.0, "seed": 1}):
        result = complete(tiny, "hello", grammar='root ::= "ab"', **extra, **parameters)
        assert (text_of(result), result["choices"][0]["finish_reason"]) == ("ab", "stop")
        assert result["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("parameters", [{"ignore_eos": True}, {"min_tokens": 5}, {}], ids=repr)
def test_everything_banned_is_no_end(tiny: Llama, parameters: dict[str, Any]) -> None:
    """Without a grammar that is at its end, it is a mistake that has to show."""

    def ban(ids: Any, logits: Any) -> None:
        logits[:] = -np.inf

    with pytest.raises(SamplingError):
        complete(tiny, "hello", logits_processor=ban, **parameters)


def test_a_processor_cannot_bring_the_end_back(tiny: Llama) -> None:
    def end(ids: Any, logits: Any) -> Any:
        lifted = np.zeros_like(logits)
        lifted[tiny.token_eos()] = 1000
        return lifted

    result = complete(tiny, "hello", logits_processor=end, ignore_eos=True)
    assert result["usage"]["completion_tokens"] == 6


# -- filling in -----------------------------------------------------------------------------------


def test_infill_with_everything(model_path: Path) -> None:
    overrides = {"tokenizer.ggml.fim_pre_token_id": 5, "tokenizer.ggml.fim_suf_token_id": 6}
    with Llama(
        model_path, backend="cpu", n_ctx=64, n_threads=1,
        kv_overrides={**overrides, "tokenizer.ggml.fim_mid_token_id": 7},
    ) as infilling:  # fmt: skip
        parameters: dict[str, Any] = {"suffix": " end", "ignore_eos": True, "max_tokens": 4}
        plain = complete(infilling, "start", **parameters)
        several = complete(infilling, "start", n=2, logprobs=1, min_tokens=2, **parameters)
        assert [choice["text"] for choice in several["choices"]] == [text_of(plain)] * 2
        assert several["choices"][0]["logprobs"]["text_offset"][0] == len("start")
        echoed = complete(infilling, "start", echo=True, **parameters)
        assert text_of(echoed) == "start" + text_of(plain)
        try:
            scored = complete(infilling, "start", echo=True, logprobs=1, **parameters)
        except UnsupportedError:
            return
        (choice,) = scored["choices"]
        assert choice["logprobs"]["text_offset"][-4] == len("start")


def test_infill_needs_infill_tokens(llama: Llama) -> None:
    with pytest.raises(UnsupportedError, match="fill-in-the-middle"):
        complete(llama, suffix="the end")


def test_infill(model_path: Path) -> None:
    """With tokens appointed for the purpose: their order is what counts."""
    names = {"fim_pre": 5, "fim_suf": 6, "fim_mid": 7}
    overrides = {f"tokenizer.ggml.{name}_token_id": token for name, token in names.items()}
    for spm, order in ((False, [5, 500, 6, 600, 7]), (True, [6, 600, 5, 500, 7])):
        with Llama(
            model_path, backend="cpu", n_ctx=64, n_threads=1, kv_overrides=overrides, spm_infill=spm
        ) as infilling:
            vocab = infilling.model.vocab
            before, after = vocab.detokenize([500]), vocab.detokenize([600])
            complete(infilling, before, suffix=after, max_tokens=1)
            assert infilling.context.memory.tokens() == order


@pytest.mark.parametrize("as_list", [True, False])
def test_stop_strings(llama: Llama, as_list: bool) -> None:
    whole = text_of(complete(llama))
    stop = whole[4:8]
    given: Any = [stop, whole[6:10], "never"] if as_list else stop
    result = complete(llama, stop=given)
    assert text_of(result) == whole[: whole.index(stop)]
    assert result["choices"][0]["finish_reason"] == "stop"
    chunks = list(stream(llama, stop=given))
    assert "".join(map(text_of, chunks)) == text_of(result)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_stopping_criterion(llama: Llama) -> None:
    def enough(ids: Any, logits: Any) -> bool:
        assert logits.shape == (llama.n_vocab(),)
        return len(ids) >= 7

    assert complete(llama, stopping_criteria=enough)["usage"]["completion_tokens"] == 2
