"""Log probabilities against a log-softmax in double precision over the whole vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacffi import Context, Llama, Model
from llamacffi.errors import ParameterError
from llamacffi.logprobs import token_logprobs
from tests.completions import PROMPT, complete, joined, stream
from tests.tiny_models import write_model

TOLERANCE = 1e-4


def log_softmax(logits: Any) -> Any:
    wide = logits.astype(np.float64)
    wide -= wide.max()
    return wide - np.log(np.exp(wide).sum())


def test_of_the_model(model: Model, context: Context) -> None:
    context.decode_tokens(model.vocab.tokenize("The capital of France is"))
    logits = context.logits()
    wanted, before = log_softmax(logits), logits.copy()
    for token in (0, 17, int(wanted.argmax()), int(wanted.argmin()), logits.size - 1):
        found = token_logprobs(logits, token, 5)
        assert found.token == token
        assert found.logprob == pytest.approx(wanted[token], abs=TOLERANCE)
        best = np.argsort(-wanted, kind="stable")[:5]
        assert [index for index, _ in found.top] == best.tolist()
        assert [value for _, value in found.top] == pytest.approx(wanted[best], abs=TOLERANCE)
    assert np.array_equal(logits, before), "the logits were changed"


@given(st.integers(0, 2**32 - 1), st.integers(1, 2000), st.floats(0.01, 50), st.integers(0, 30))
def test_of_random_numbers(seed: int, size: int, scale: float, count: int) -> None:
    random = np.random.default_rng(seed)
    logits = (random.standard_normal(size) * scale).astype(np.float32)
    token = int(random.integers(size))
    found, wanted = token_logprobs(logits, token, count), log_softmax(logits)
    assert found.logprob == pytest.approx(wanted[token], abs=TOLERANCE)
    assert len(found.top) == min(count, size)
    values = [value for _, value in found.top]
    assert values == sorted(values, reverse=True)
    assert values == pytest.approx(np.sort(wanted)[::-1][: len(values)], abs=TOLERANCE)


def test_a_large_vocabulary_keeps_its_digits() -> None:
    logits = np.zeros(262_144, np.float32)
    assert token_logprobs(logits, 3, 0).logprob == pytest.approx(-np.log(262_144), abs=1e-6)


EXTREMES = [
    [3e38, 3e38, -3e38], [3e38, -3e38, 0], [-3e38, -3e38, -np.inf], [1e30, 1e30, 1],
    [1e9, 1e9, 1e9],
    [-1e20, -1e20, -1e20], [88, -104, 0], [1e-45, 0, -1e-45], [0, -np.inf, -np.inf], [7],
]  # fmt: skip


@pytest.mark.parametrize("values", EXTREMES, ids=repr)
def test_extreme_numbers(values: list[float]) -> None:
    logits = np.array(values, np.float32)
    wanted = log_softmax(logits)
    for token in range(logits.size):
        found = token_logprobs(logits, token, logits.size)
        assert found.logprob == pytest.approx(wanted[token], abs=TOLERANCE)
        assert [value for _, value in found.top] == pytest.approx(sorted(wanted)[::-1])


def test_ties_in_a_huge_vocabulary() -> None:
    logits = np.zeros(500_000, np.float32)
    logits[123_456::1000] = 9
    found = token_logprobs(logits, 123_456, 20)
    assert {int(logits[token]) for token, _ in found.top} == {9}
    assert len({token for token, _ in found.top}) == 20
    assert found.logprob == pytest.approx(log_softmax(logits)[123_456], abs=TOLERANCE)


def test_banned_tokens() -> None:
    logits = np.array([1.0, -np.inf, 0.0, -np.inf], np.float32)
    found = token_logprobs(logits, 1, 4)
    assert found.logprob == -np.inf
    assert [token for token, _ in found.top][:2] == [0, 2]


def test_everything_banned_is_defined() -> None:
    found = token_logprobs(np.full(8, -np.inf, np.float32), 1, 2)
    assert not found.logprob > -np.inf


# -- in the shapes of completions ------------------------------------------------------------------


MULTI_BYTE = "é東🧑🏽x"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """Has a BOS token, and puts a space before the text."""
    path = write_model(tmp_path_factory.mktemp("completion") / "tiny.gguf")
    with Llama(path, backend="cpu", n_ctx=256, n_threads=1) as made:
        yield made


def forced(llama: Llama, text: str) -> dict[str, Any]:
    """Arguments that make a completion of this text, token by token."""
    tokens = llama.model.vocab.tokenize(text, parse_special=True)
    start: list[int] = []

    def force(ids: Any, logits: Any) -> None:
        if not start:
            start.append(len(ids))
        logits[:] = -np.inf
        logits[tokens[(len(ids) - start[0]) % len(tokens)]] = 0

    return {"logits_processor": force, "max_tokens": len(tokens)}


def test_logprobs(llama: Llama) -> None:
    result = complete(llama, logprobs=2)
    (choice,) = result["choices"]
    found = choice["logprobs"]
    assert set(found) == {"tokens", "text_offset", "token_logprobs", "top_logprobs"}
    assert {len(values) for values in found.values()} == {6}
    assert "".join(found["tokens"]) == choice["text"]
    offset = len(PROMPT)
    for at, token, logprob, top in zip(
        found["text_offset"], found["tokens"], found["token_logprobs"], found["top_logprobs"],
        strict=True,
    ):  # fmt: skip
        assert at == offset
        assert len(top) == 2
        assert top[token] == logprob == max(top.values()) < 0  # greedy
        offset += len(token)
    assert json.loads(json.dumps(result)) == result


def test_logprobs_of_a_stream_are_those_of_the_whole(llama: Llama) -> None:
    whole = complete(llama, logprobs=3)["choices"][0]["logprobs"]
    joined: dict[str, list[Any]] = {key: [] for key in whole}
    for chunk in stream(llama, logprobs=3):
        for key, values in (chunk["choices"][0]["logprobs"] or {}).items():
            joined[key] += values
    assert joined["tokens"] == whole["tokens"]
    assert joined["text_offset"] == whole["text_offset"]
    assert joined["token_logprobs"] == pytest.approx(whole["token_logprobs"], abs=1e-4)


def test_no_alternatives(llama: Llama) -> None:
    found = complete(llama, logprobs=0)["choices"][0]["logprobs"]
    assert all(list(top) == [token] for top, token in zip(
        found["top_logprobs"], found["tokens"], strict=True))  # fmt: skip


def test_the_shape_of_chat_completions(llama: Llama) -> None:
    plain = complete(llama, logprobs=3)["choices"][0]["logprobs"]
    result = complete(llama, logprobs=True, top_logprobs=3)
    content = result["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == plain["tokens"]
    assert [entry["logprob"] for entry in content] == pytest.approx(plain["token_logprobs"])
    for entry, top in zip(content, plain["top_logprobs"], strict=True):
        assert bytes(entry["bytes"]).decode() == entry["token"]
        values = [other["logprob"] for other in entry["top_logprobs"]]
        assert values == sorted(values, reverse=True)
        assert {o["token"]: pytest.approx(o["logprob"]) for o in entry["top_logprobs"]} == top
        assert set(entry) == {"token", "bytes", "logprob", "top_logprobs"}
    assert json.loads(json.dumps(result)) == result
    none = complete(llama, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in none] == [[]] * 6
    assert complete(llama, logprobs=False)["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("style", [{"logprobs": 3}, {"logprobs": True, "top_logprobs": 2}])
@pytest.mark.parametrize("echo", [True, False])
@pytest.mark.parametrize("text", [None, MULTI_BYTE, "a<repo_name>b c"])
@pytest.mark.parametrize("which", ["llama", "tiny"])
def test_a_stream_is_the_whole(
    llama: Llama, tiny: Llama, which: str, text: str | None, echo: bool, style: dict[str, Any]
) -> None:
    used = {"llama": llama, "tiny": tiny}[which]

    def parameters() -> dict[str, Any]:
        given = {} if text is None else forced(used, text)
        return {"ignore_eos": True, "echo": echo, **style, **given}

    (whole,) = complete(used, **parameters())["choices"]
    parts = joined(stream(used, **parameters()))
    assert (parts["text"], parts["finish_reason"]) == (whole["text"], whole["finish_reason"])
    assert set(parts["logprobs"]) == set(whole["logprobs"])
    for key in ("tokens", "text_offset"):
        assert parts["logprobs"].get(key) == whole["logprobs"].get(key)
    values = [x["logprobs"].get("token_logprobs", ()) for x in (parts, whole)]
    assert values[0] == pytest.approx(values[1], abs=1e-4, nan_ok=False)


@pytest.mark.parametrize("echo", [True, False])
@pytest.mark.parametrize("text", ["plain words", MULTI_BYTE, "a<repo_name>b c"])
@pytest.mark.parametrize("which", ["llama", "tiny"])
def test_offsets_are_places_in_the_text(
    llama: Llama, tiny: Llama, which: str, text: str, echo: bool
) -> None:
    """Where a token begins in the prompt and the text, counted in characters of them."""
    used = {"llama": llama, "tiny": tiny}[which]
    prompt = f"Say {MULTI_BYTE}"
    (choice,) = complete(used, prompt, logprobs=1, echo=echo, **forced(used, text))["choices"]
    whole = choice["text"] if echo else prompt + choice["text"]
    found = choice["logprobs"]
    offsets = found["text_offset"]
    assert offsets == sorted(offsets)
    assert offsets[0] == (0 if echo else len(prompt))
    for offset, token in zip(offsets, found["tokens"], strict=True):
        assert offset <= len(whole)
        if token.isascii() and not token.startswith(("<", "bytes:")):
            assert whole[offset:].startswith(token.lstrip() if offset == 0 else token)


def test_alternatives_contain_the_token(tiny: Llama) -> None:
    """Also where other tokens are spelled the same, as parts of characters are."""
    (choice,) = complete(
        tiny, "hello", logprobs=8, max_tokens=40, temperature=1.5, seed=5, ignore_eos=True
    )["choices"]
    found = choice["logprobs"]
    rows = zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True)
    for token, logprob, top in rows:
        assert top[token] == logprob
        assert len(top) <= 9
        assert max(top.values()) == next(iter(top.values())) or max(top.values()) == logprob


@pytest.mark.parametrize(
    "parameters",
    [
        {"logprobs": -1},
        {"logprobs": True, "top_logprobs": -1},
        {"top_logprobs": 2},
        {"logprobs": False, "top_logprobs": 2},
        {"logprobs": 2, "top_logprobs": 3},
        {"logprobs": "2"},
        {"logprobs": 1.5},
    ],
    ids=repr,
)
def test_logprobs_that_cannot_be(tiny: Llama, parameters: dict[str, Any]) -> None:
    with pytest.raises((ParameterError, TypeError)):
        complete(tiny, "hello", **parameters)
