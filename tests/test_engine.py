"""`Engine` gives what `Llama` gives, while others run: whole and streamed, all arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from llamacffi import Engine, Llama, Model, SamplingParams
from llamacffi.errors import ContextFullError, EmptyInputError, ParameterError, UnsupportedError
from tests.chats import message_of
from tests.completions import joined
from tests.conftest import N_THREADS
from tests.engines import EXACT, alone, complete, engine_on, settled, text_of, together

PROMPTS = ["Once upon a time", "The", "hello, hello", "a b c d e f g h i j k l m n"]
SCHEMA = {"type": "object", "properties": {"size": {"enum": [1, 22]}}, "required": ["size"]}
PLAIN = SamplingParams(temperature=0)
DECODERS = ["llama", "qwen3moe", "gpt2", "falcon", "phi3", "gemma3", "mamba", "jamba"]


@pytest.fixture(scope="module")
def tiny(exact_llama: Llama) -> Iterator[Engine]:
    with engine_on(exact_llama.model, n_ctx=1024) as made:
        yield made


def bumped(tokens: Any, logits: Any) -> Any:
    logits[40 + len(tokens) % 7] += 5
    return logits


# -- as Llama, while others run -------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"temperature": 1.0, "seed": 7},
        {"temperature": 1.5, "seed": 7, "top_k": 5, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9},
        {"mirostat_mode": 2, "temperature": 1.0, "seed": 3},
        {"repeat_penalty": 1.5, "frequency_penalty": 0.5, "presence_penalty": 0.5},
        {"n": 3, "temperature": 1.0, "seed": 1},
        {"n": 1, "best_of": 3, "temperature": 1.0, "seed": 1},
        {"logprobs": 2},
        {"logprobs": True, "top_logprobs": 3},
        {"echo": True},
        {"echo": True, "logprobs": 2},
        {"echo": True, "logprobs": 1, "max_tokens": 0},
        {"stop": ["e", "zzz", "st"], "max_tokens": 30},
        {"stop": [68, 70, 72], "max_tokens": 30},
        {"grammar": 'root ::= ("ab" | "c")+ "!"', "max_tokens": 30},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
         "max_tokens": 60, "ignore_eos": False},
        {"logit_bias": {70: 100.0, 71: False}},
        {"logits_processor": bumped},
        {"stopping_criteria": lambda tokens, logits: len(tokens) % 13 == 0, "max_tokens": 40},
        {"min_tokens": 9, "ignore_eos": False, "max_tokens": 20},
        {"max_tokens": 1},
    ],
    ids=lambda parameters: ",".join(parameters) or "greedy",
)  # fmt: skip
def test_completions_are_those_of_llama(
    exact_llama: Llama, tiny: Engine, parameters: dict[str, Any]
) -> None:
    wanted = [alone(exact_llama, prompt, **parameters)["choices"] for prompt in PROMPTS]

    def whole(prompt: str) -> Any:
        return complete(tiny, prompt, **parameters)["choices"]

    calls = [lambda prompt=prompt: whole(prompt) for prompt in PROMPTS]
    for found, choices in zip(together(calls), wanted, strict=True):
        assert_alike(found, choices)
    if "best_of" in parameters:
        return
    n = parameters.get("n", 1)

    def streamed(prompt: str) -> Any:
        chunks = list(tiny.create_completion(prompt, **{"temperature": 0, "max_tokens": 8,
                                                        "ignore_eos": True, **parameters},
                                             stream=True))  # fmt: skip
        return [joined(iter(chunks), index) for index in range(n)]

    calls = [lambda prompt=prompt: streamed(prompt) for prompt in PROMPTS]
    for found, choices in zip(together(calls), wanted, strict=True):
        assert_alike(found, choices)


def assert_alike(found: Any, wanted: Any, path: str = "") -> None:
    """Equal, but for the last digits of numbers: batches add up in another order."""
    if isinstance(found, BaseException):
        raise found
    if isinstance(wanted, dict):
        assert set(found) == set(wanted), path
        for key in wanted:
            assert_alike(found[key], wanted[key], f"{path}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), path
        for place, (a, b) in enumerate(zip(found, wanted, strict=True)):
            assert_alike(a, b, f"{path}[{place}]")
    elif isinstance(wanted, float):
        assert math.isclose(found, wanted, rel_tol=1e-3, abs_tol=1e-3), path
    else:
        assert found == wanted, path


CONVERSATION = [{"role": "user", "content": "Hello!"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


@pytest.mark.parametrize(
    "parameters",
    [
        {}, {"n": 2, "temperature": 1.0, "seed": 4}, {"logprobs": True, "top_logprobs": 2},
        {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
         "max_tokens": 60},
        {"stop": ["a", "e"], "max_tokens": 20}, {"enable_thinking": False},
    ],
    ids=lambda parameters: ",".join(parameters) or "greedy",
)  # fmt: skip
def test_chats_are_those_of_llama(
    exact_llama: Llama, tiny: Engine, parameters: dict[str, Any]
) -> None:
    given = {"temperature": 0, "max_tokens": 8, **parameters}

    def asked(llm: Any, word: str) -> Any:
        result = llm.create_chat_completion([*CONVERSATION, {"role": "user", "content": word}],
                                            **given)  # fmt: skip
        for choice in result["choices"]:
            for call in choice["message"].get("tool_calls", ()):
                call.pop("id")
        return result["choices"]

    wanted = []
    for word in PROMPTS:
        exact_llama.reset()
        wanted.append(asked(exact_llama, word))
    calls = [lambda word=word: asked(tiny, word) for word in PROMPTS]
    for found, choices in zip(together(calls), wanted, strict=True):
        assert_alike(found, choices)


def test_a_streamed_chat_is_the_whole_in_chunks(tiny: Engine) -> None:
    whole = tiny.create_chat_completion(CONVERSATION, temperature=0, max_tokens=12)
    chunks = list(
        tiny.create_chat_completion(
            CONVERSATION, temperature=0, max_tokens=12, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert text == message_of(whole)["content"]
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


@pytest.mark.parametrize("architecture", DECODERS)
def test_all_architectures(tiny_models: dict[str, Model], architecture: str) -> None:
    model = tiny_models[architecture]
    prompts = [[5 + (7 * place + shift) % 60 for place in range(20)] for shift in range(6)]
    prompts += [[*prompts[0][:15], 9, 9], [*prompts[0], 8]]
    wanted = []
    for prompt in prompts:
        with model.context(n_ctx=128, n_threads=1, flash_attention="off", **EXACT) as context:
            context.decode_tokens(prompt)
            found = []
            for position in range(len(prompt), len(prompt) + 8):
                context.logits()[model.vocab.eog_tokens] = -np.inf
                found.append(int(context.logits().argmax()))
                context.decode_token(found[-1], position)
            wanted.append(found)
    with engine_on(model, n_parallel=3) as engine:

        def generated(prompt: list[int]) -> list[int]:
            picked: list[int] = []
            complete(
                engine, prompt, stopping_criteria=lambda tokens, _: picked.append(int(tokens[-1]))
            )
            return picked

        for _ in range(2):  # the second time, much of it is remembered
            calls = [lambda prompt=prompt: generated(prompt) for prompt in prompts]
            assert together(calls) == wanted


# -- the real model -------------------------------------------------------------------------------


def test_the_real_model_says_what_is_probable(model: Model) -> None:
    """In a batch near ties may tip, so: each picked token is nearly the best one, alone."""
    prompts = ["The capital of France is", "Once upon a time", "def add(a, b):", "1, 2, 3, 4,"]
    prompts += [f"The {word} is" for word in ("sky", "sea", "sun", "moon")]
    with engine_on(model, n_parallel=8, n_ctx=1024, n_threads=N_THREADS) as engine:

        def written(prompt: str) -> Any:
            branch = engine.branch(prompt)
            n_prompt = len(branch)
            branch.generate(8, sampling=PLAIN)
            return n_prompt, branch.tokens

        answers = together([lambda prompt=prompt: written(prompt) for prompt in prompts])
    with model.context(
        n_ctx=128, n_threads=N_THREADS, n_outputs_max=64, flash_attention="off", **EXACT
    ) as context:
        for n_prompt, tokens in answers:
            context.memory.clear()
            context.decode_tokens(tokens, outputs="all")
            for place in range(n_prompt, len(tokens)):
                logits = np.array(context.logits(place - 1))
                assert logits[tokens[place]] >= logits.max() - 0.4


# -- refusals -------------------------------------------------------------------------------------


def test_a_model_with_encoder_and_decoder_is_refused(tiny_models: dict[str, Model]) -> None:
    with pytest.raises(UnsupportedError, match="Llama"):
        Engine(tiny_models["t5"])


@pytest.mark.parametrize(
    "parameters",
    [{"n_parallel": 0}, {"n_parallel": 129}, {"n_queue_max": 0}, {"step_seconds": 0},
     {"step_seconds": float("nan")}],
    ids=repr,
)  # fmt: skip
def test_senseless_engines_are_refused(exact_llama: Llama, parameters: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        Engine(exact_llama.model, **parameters)


@pytest.mark.parametrize(
    "options",
    [{"timeout": 0}, {"timeout": float("nan")}, {"priority": 10**400}, {"priority": True},
     {"priority": 1.5}],
    ids=lambda options: ",".join(options),
)  # fmt: skip
def test_senseless_options_are_refused(tiny: Engine, options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        tiny.with_options(**options)


@pytest.mark.parametrize(
    ("prompt", "error"),
    [([], EmptyInputError), ([5] * 1024, ContextFullError), ([10**9], ValueError)],
)  # fmt: skip
def test_prompts_that_cannot_be_computed(
    tiny: Engine, prompt: list[int], error: type[Exception]
) -> None:
    before = tiny.stats().totals.requests
    with pytest.raises(error):
        complete(tiny, prompt)
    assert tiny.stats().totals.requests == before


def test_the_smallest_engine(exact_llama: Llama) -> None:
    with engine_on(
        exact_llama.model, n_parallel=1, n_ctx=32, n_batch=8, step_seconds=1e-9
    ) as engine:
        calls: list[Callable[..., Any]] = [
            lambda word=word: text_of(complete(engine, word)) for word in PROMPTS[:2]
        ]
        wanted = [text_of(alone(exact_llama, word)) for word in PROMPTS[:2]]
        assert together(calls) == wanted


def test_the_largest_engine(exact_llama: Llama) -> None:
    with engine_on(
        exact_llama.model, n_parallel=128, n_ctx=256, step_seconds=float("inf")
    ) as engine:
        wanted = text_of(alone(exact_llama, "The"))
        assert together([lambda: text_of(complete(engine, "The"))] * 40) == [wanted] * 40
        assert settled(engine).totals.finished == 40
