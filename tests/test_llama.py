"""The one-line door: llama-cpp-python's arguments and shapes, streams, threads, and mistakes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llamacffi
from llamacffi import Llama
from llamacffi.errors import (
    AdapterError,
    CancelledError,
    ClosedError,
    ContextFullError,
    ContextInitError,
    EmptyInputError,
    InvalidTokenError,
    LlamaCffiError,
    ModelNotFoundError,
    ParameterError,
    UnsupportedError,
)
from tests.completions import PROMPT, complete, stream, text_of
from tests.tiny_models import write_lora

CHUNK_KEYS = {"id", "object", "created", "model", "choices"}


@pytest.fixture
def tiny(tiny_path: Path) -> Iterator[Llama]:
    with Llama(tiny_path, backend="cpu", n_ctx=256, n_threads=1) as made:
        yield made


# -- shapes ---------------------------------------------------------------------------------------


def test_the_whole_result(llama: Llama) -> None:
    result = complete(llama, model="mine")
    assert set(result) == CHUNK_KEYS | {"usage"}
    assert result["object"] == "text_completion"
    assert result["model"] == "mine"
    assert result["id"].startswith("cmpl-")
    assert isinstance(result["created"], int)
    (choice,) = result["choices"]
    assert set(choice) == {"text", "index", "logprobs", "finish_reason"}
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "length")
    usage = result["usage"]
    counts = [usage[f"{what}_tokens"] for what in ("prompt", "completion", "total")]
    assert counts == [5, 6, 11]
    assert json.loads(json.dumps(result)) == result


def test_a_stream_is_the_whole_in_pieces(llama: Llama) -> None:
    whole = complete(llama)
    chunks = list(stream(llama))
    assert all(set(chunk) == CHUNK_KEYS for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert "".join(map(text_of, chunks)) == text_of(whole)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]
    assert len(chunks) > 4
    assert all(chunk["object"] == "text_completion" for chunk in chunks)
    assert json.loads(json.dumps(chunks)) == chunks


def test_the_model_is_named_by_its_path(llama: Llama, model_path: Path) -> None:
    assert complete(llama, max_tokens=1)["model"] == str(model_path)


def test_calling_is_completing(llama: Llama) -> None:
    result = llama(PROMPT, max_tokens=6, temperature=0)
    assert isinstance(result, dict)
    assert text_of(result) == text_of(complete(llama))


def test_echo(llama: Llama) -> None:
    plain = text_of(complete(llama))
    assert text_of(complete(llama, echo=True)) == PROMPT + plain
    chunks = list(stream(llama, echo=True))
    assert "".join(map(text_of, chunks)) == PROMPT + plain
    tokens = llama.tokenize(PROMPT)
    assert text_of(complete(llama, tokens, echo=True)) == PROMPT + plain


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_tokens", [None, 0, -1])
def test_as_many_tokens_as_fit(tiny: Llama, max_tokens: int | None) -> None:
    banned = {tiny.token_eos(): -float("inf")}
    eog = [t for t in range(tiny.n_vocab()) if tiny.model.vocab.is_eog(t)]
    banned |= dict.fromkeys(eog, -float("inf"))
    result = complete(tiny, "hello", max_tokens=max_tokens, logit_bias=banned)
    assert result["usage"]["total_tokens"] == tiny.n_ctx()
    assert result["choices"][0]["finish_reason"] == "length"


def test_a_number_of_tokens(llama: Llama) -> None:
    for count in (1, 3):
        assert complete(llama, max_tokens=count)["usage"]["completion_tokens"] == count


def test_the_model_stops(llama: Llama) -> None:
    result = complete(llama, logit_bias={llama.token_eos(): 1000})
    assert text_of(result) == ""
    assert result["choices"][0]["finish_reason"] == "stop"
    assert result["usage"]["completion_tokens"] == 0


# -- prompts --------------------------------------------------------------------------------------


def test_a_prompt_of_tokens(llama: Llama) -> None:
    np = pytest.importorskip("numpy")
    wanted = text_of(complete(llama))
    tokens = llama.tokenize(PROMPT)
    for prompt in (tokens, tuple(tokens), np.array(tokens)):
        assert text_of(complete(llama, prompt)) == wanted


def test_a_prompt_of_bytes_is_text_or_refused(llama: Llama) -> None:
    """Never a list of token ids, which bytes look like to Python."""
    wanted = text_of(complete(llama))
    try:
        found = text_of(complete(llama, PROMPT.encode()))
    except TypeError:
        return
    assert found == wanted


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("", EmptyInputError),
        ([], EmptyInputError),
        ("word " * 600, ContextFullError),
        ([5] * 512, ContextFullError),
        ([5, -1], InvalidTokenError),
        ([10**9], InvalidTokenError),
        ([2**40], InvalidTokenError),
        ([None], TypeError),
        ([1.5], (TypeError, InvalidTokenError)),
        (["The"], (TypeError, ValueError)),
        (None, TypeError),
        (5, TypeError),
        ("a\ud800", ValueError),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_prompts_that_cannot_be(
    llama: Llama, prompt: Any, error: type[Exception], streaming: bool
) -> None:
    with pytest.raises(error):
        list(stream(llama, prompt)) if streaming else complete(llama, prompt)
    assert complete(llama, max_tokens=1)


def test_control_tokens_in_a_prompt(llama: Llama) -> None:
    prompt = "<|im_start|>user\nHi<|im_end|>\n"
    used = complete(llama, prompt, max_tokens=1)["usage"]["prompt_tokens"]
    assert used == len(llama.tokenize(prompt, special=True)) < len(llama.tokenize(prompt))


def test_bos_is_not_doubled(tiny: Llama) -> None:
    bos = tiny.model.vocab.text(tiny.token_bos())
    plain = complete(tiny, "hello", echo=True, max_tokens=2)
    spelled = complete(tiny, f"{bos}hello", max_tokens=2)
    assert tiny.context.memory.tokens().count(tiny.token_bos()) == 1
    assert spelled["usage"]["prompt_tokens"] <= plain["usage"]["prompt_tokens"] + 1
    assert tiny.context.memory.tokens()[0] == tiny.token_bos()


def test_a_prompt_that_is_only_bos(tiny: Llama) -> None:
    assert complete(tiny, "", max_tokens=2)["usage"]["prompt_tokens"] == 1


@pytest.mark.parametrize("parameters", [{"foo": 1}, {"maxtokens": 3}, {"n_predict": 3}])
def test_unknown_arguments(llama: Llama, parameters: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        complete(llama, **parameters)


def test_an_unknown_argument_of_the_constructor(model_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        Llama(model_path, n_ctxx=512)  # type: ignore[call-arg]


# -- reuse ----------------------------------------------------------------------------------------


def test_the_text_does_not_depend_on_what_was_before(llama: Llama) -> None:
    llama.reset()
    fresh = text_of(complete(llama))
    assert text_of(complete(llama)) == fresh
    complete(llama, "Something else entirely", max_tokens=2)
    assert text_of(complete(llama)) == fresh
    longer = text_of(complete(llama, PROMPT + fresh))
    llama.reset()
    assert text_of(complete(llama, PROMPT + fresh)) == longer


def test_only_the_new_part_of_a_prompt_is_computed(model_path: Path) -> None:
    with Llama(model_path, backend="cpu", n_ctx=512, n_threads=1, no_perf=False) as counting:
        history = "Once upon a time there was a fox. " * 20
        complete(counting, history, max_tokens=1)
        counting.context.reset_performance()
        complete(counting, history + "It was red.", max_tokens=1)
        assert counting.context.performance.n_prompt <= 10


def test_an_adapter_changes_what_is_remembered(tiny_path: Path, tmp_path: Path) -> None:
    """The cache was computed without the adapter: it must not be used with it."""
    adapter = llamacffi.Adapter
    lora = write_lora(tmp_path / "lora.gguf")
    with Llama(tiny_path, backend="cpu", n_ctx=128, n_threads=1, lora_path=lora) as fresh:
        wanted = text_of(complete(fresh, "once upon a time hello", max_tokens=20))
    with Llama(tiny_path, backend="cpu", n_ctx=128, n_threads=1) as used:
        without = text_of(complete(used, "once upon a time hello", max_tokens=20))
        used.context.set_adapters([(adapter(used.model, lora), 1.0)])
        assert text_of(complete(used, "once upon a time hello", max_tokens=20)) == wanted
        used.context.set_adapters([])
        assert text_of(complete(used, "once upon a time hello", max_tokens=20)) == without
    assert wanted != without


# -- streams and threads --------------------------------------------------------------------------


def test_characters_are_whole_in_a_stream(llama: Llama) -> None:
    wanted = "🦙é東🧑🏽‍🚀"
    chunks = list(stream(llama, grammar=f'root ::= "{wanted}"', max_tokens=40))
    texts = [text_of(chunk) for chunk in chunks]
    assert "".join(texts) == wanted
    assert not any("\ufffd" in text for text in texts)


def test_a_stream_begins_with_its_first_piece(llama: Llama) -> None:
    stream(llama)  # never read: it holds nothing up
    assert complete(llama, max_tokens=1)


def test_a_superseded_stream(llama: Llama) -> None:
    wanted = text_of(complete(llama))
    old = stream(llama, "Once upon", max_tokens=100)
    next(old)
    assert text_of(complete(llama)) == wanted
    with pytest.raises(CancelledError, match="superseded"):
        next(old)
    assert text_of(complete(llama)) == wanted


def test_a_stream_left_alone(llama: Llama) -> None:
    wanted = text_of(complete(llama))
    left = stream(llama, "Once upon", max_tokens=100)
    next(left)
    del left
    assert text_of(complete(llama)) == wanted
    closed = stream(llama, "Once upon", max_tokens=100)
    next(closed)
    closed.close()  # type: ignore[attr-defined]
    assert text_of(complete(llama)) == wanted


def test_an_exception_in_the_reader_of_a_stream(llama: Llama) -> None:
    def read() -> None:
        for _ in stream(llama):
            raise KeyError

    with pytest.raises(KeyError):
        read()
    assert complete(llama, max_tokens=1)


def test_two_threads_on_one_llama(llama: Llama) -> None:
    prompts = [PROMPT, "Dogs and cats are", "Once upon a time", PROMPT]
    wanted = [text_of(complete(llama, prompt)) for prompt in prompts]
    found: list[str] = [""] * len(prompts)

    def work(index: int) -> None:
        found[index] = "".join(map(text_of, stream(llama, prompts[index])))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == wanted


def test_cancelled_from_another_thread(llama: Llama) -> None:
    wanted = text_of(complete(llama))
    started = threading.Event()

    def cancel() -> None:
        started.wait()
        llama.context.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()

    def go_on() -> None:
        for _ in range(20):
            for _ in stream(llama, max_tokens=400):
                started.set()

    with pytest.raises(CancelledError):
        go_on()
    canceller.join()
    assert text_of(complete(llama)) == wanted


def test_closed_during_a_stream(model_path: Path) -> None:
    closing = Llama(model_path, backend="cpu", n_ctx=512, n_threads=1)
    chunks = stream(closing, max_tokens=400, logit_bias={closing.token_eos(): -1000})
    next(chunks)
    closer = threading.Thread(target=closing.close)
    closer.start()
    with pytest.raises(ClosedError):
        list(chunks)
    closer.join()


# -- lifetime -------------------------------------------------------------------------------------


def test_after_close(tiny_path: Path) -> None:
    closed = Llama(tiny_path, backend="cpu", n_ctx=64, n_threads=1)
    closed.close()
    closed.close()
    for use in (
        lambda: complete(closed, "hello"),
        lambda: closed.tokenize("hello"),
        lambda: closed.detokenize([5]),
        lambda: closed.metadata,
        closed.n_embd,
        closed.token_bos,
        closed.token_eos,
        closed.reset,
    ):
        with pytest.raises(ClosedError):
            use()
    assert "closed" in repr(closed)


def test_a_failed_constructor_leaves_nothing(tiny_path: Path, tmp_path: Path) -> None:
    """The leak check after this test looks."""
    for parameters, error in (
        ({"n_ctx": 2**31}, ContextInitError),
        ({"n_ctx": -1}, ContextInitError),
        ({"lora_path": tmp_path / "none.gguf"}, AdapterError),
        ({"lora_path": tiny_path}, AdapterError),
        ({"type_k": "f17"}, ParameterError),
        ({"type_k": 999}, ParameterError),
        ({"split_mode": 77}, ParameterError),
        ({"pooling_type": "max"}, ParameterError),
        ({"n_threads": -3}, ContextInitError),
        ({"n_batch": 0}, LlamaCffiError),
        ({"main_gpu": 5}, ParameterError),
    ):
        given: dict[str, Any] = {"n_ctx": 64, "backend": "cpu", **parameters}  # type: ignore[dict-item]
        with pytest.raises(error):
            Llama(tiny_path, **given)
    with pytest.raises(ModelNotFoundError):
        Llama(tmp_path / "none.gguf")


# -- the rest of the interface --------------------------------------------------------------------


def test_facts(llama: Llama) -> None:
    assert (llama.n_ctx(), llama.n_embd(), llama.n_vocab()) == (512, 576, 49_152)
    assert (llama.token_bos(), llama.token_eos()) == (1, 2)
    assert llama.token_nl() == llama.tokenize("\n")[0]
    assert llama.metadata["general.architecture"] == "llama"
    assert "SmolLM2" in repr(llama) or "Llama(" in repr(llama)


def test_tokens(llama: Llama) -> None:
    tokens = llama.tokenize(b"Hello <|im_end|>")
    assert llama.tokenize("Hello <|im_end|>") == tokens
    assert llama.detokenize(tokens) == b"Hello <|im_end|>"
    special = llama.tokenize(b"Hello<|im_end|>", special=True)
    assert llama.detokenize(special) == b"Hello"
    assert llama.detokenize(special, special=True) == b"Hello<|im_end|>"
    assert llama.detokenize(tokens[1:], prev_tokens=tokens[:1]) == b" <|im_end|>"
    for bad in ([10**9], [-1]):
        with pytest.raises(InvalidTokenError):
            llama.detokenize(bad)


def test_vocabulary_only(model_path: Path) -> None:
    with Llama(model_path, backend="cpu", vocab_only=True) as bare:
        assert bare.detokenize(bare.tokenize("Hello")) == b"Hello"
        with pytest.raises(UnsupportedError, match="vocab_only"):
            complete(bare)
        with pytest.raises(UnsupportedError, match="vocab_only"):
            bare.n_ctx()


def test_llama_cpp_pythons_numbers(tiny_path: Path) -> None:
    """LLAMA_SPLIT_MODE_LAYER, GGML_TYPE_Q8_0 and the like, as its users write them."""
    with Llama(
        tiny_path, backend="cpu", n_ctx=0, n_gpu_layers=0, split_mode=1, use_mmap=False, seed=1,
        n_threads=1, n_batch=64, type_k=1, type_v=1, rope_scaling_type=-1, pooling_type=-1,
        flash_attn=False, offload_kqv=True, op_offload=True, swa_full=True, logits_all=True,
        verbose=False, tensor_split=None, lora_scale=1.0, use_mlock=False, embedding=False,
    ) as made:  # fmt: skip
        assert made.n_ctx() == 256
        assert made.model.params.load_mode == "none"
        assert complete(made, "hello", max_tokens=2)


def test_speaks_only_when_asked(model_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Llama(model_path, backend="cpu", n_ctx=32, n_threads=1) as quiet:
        complete(quiet, max_tokens=1)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
