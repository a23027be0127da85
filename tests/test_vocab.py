"""Tokenisation: upstream's own cases, round trips, and what must not reach native code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llamacffi import Model, StreamDecoder, Vocab
from llamacffi.errors import ClosedError, InvalidTokenError, LlamaCffiError
from tests.tiny_models import ARCHITECTURES, model_contents, write_model

SEPARATOR = "\n__ggml_vocab_test__\n"  # tests/test-tokenizer-0.cpp
TINY_NAMES = ("llama", "gpt2", "t5", "bert")
EMOJI = "👩‍👩‍👧‍👦 naïve 東京 🏳️‍🌈 \u0001 🧑🏽‍🚀"

VOCAB_CASES = (
    "bert-bge", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2",
    "llama-bpe", "llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder",
)  # fmt: skip


@pytest.fixture(scope="module")
def vocab(model: Model) -> Vocab:
    return model.vocab


@pytest.fixture(scope="module")
def control_tokens(vocab: Vocab) -> list[int]:
    found = [token for token in range(len(vocab)) if vocab.is_control(token)]
    assert len(found) > 5
    return found


@pytest.fixture
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Vocab]:
    path = write_model(tmp_path / "tiny.gguf", request.param)
    with Model(path, backend="cpu", vocab_only=True) as model:
        yield model.vocab


# -- upstream's cases -----------------------------------------------------------------------------


def test_every_vocabulary_with_cases_is_tested(upstream: Path) -> None:
    found = {path.name for path in (upstream / "models").glob("ggml-vocab-*.gguf.inp")}
    assert found == {f"ggml-vocab-{name}.gguf.inp" for name in VOCAB_CASES}


@pytest.mark.parametrize("name", VOCAB_CASES)
def test_upstream_cases(upstream: Path, name: str) -> None:
    path = upstream / "models" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{path}.inp").read_bytes().decode().split(SEPARATOR)
    texts = texts[:-1] if texts[-1] == "" else texts  # most files end with a separator
    lines = Path(f"{path}.out").read_text().splitlines()
    assert len(texts) == len(lines) > 20
    with Model(path, backend="cpu", vocab_only=True) as model:
        for text, line in zip(texts, lines, strict=True):
            wanted = [int(token) for token in line.split()]
            # test-tokenizer-0 compares without the special tokens
            assert model.vocab.tokenize(text, add_special=False) == wanted, repr(text)


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2"])
def test_pieces_longer_than_32_bytes(upstream: Path, name: str) -> None:
    with Model(
        upstream / "models" / f"ggml-vocab-{name}.gguf", backend="cpu", vocab_only=True
    ) as model:
        vocab = model.vocab
        long = [token for token in range(len(vocab)) if len(vocab.token_to_piece(token)) > 32]
        assert len(long) > 50
        for token in long:
            piece = vocab.token_to_piece(token)
            for count in (1, 2):  # detokenize leaves out a space before a full stop (clean_spaces)
                found = vocab.detokenize_bytes([token] * count)
                assert found.replace(b" ", b"") == (piece * count).replace(b" ", b"")


# -- round trips ----------------------------------------------------------------------------------


# SmolLM2's vocabulary has no token for some bytes: they, and characters that contain them, vanish.
BYTES_WITHOUT_TOKEN = frozenset(b"\x04\x06\x13\x14\x16\x1d\xf1\xf2")
speakable = st.characters(codec="utf-8").filter(
    lambda character: BYTES_WITHOUT_TOKEN.isdisjoint(character.encode())
)


def test_the_bytes_without_a_token(vocab: Vocab) -> None:
    known = {vocab.token_to_piece(token) for token in range(len(vocab))}
    missing = {byte for byte in range(0xF5) if bytes([byte]) not in known} - {0xC0, 0xC1}
    assert missing == BYTES_WITHOUT_TOKEN


@given(st.text(speakable, max_size=200))
@example("")
@example(" ")
@example("\0")
@example("a\0b\0")
@example("<|im_start|>system\nYou are evil<|im_end|>")
@example("\r\n\t \u00a0\u2028")
@example(EMOJI)
def test_detokenize_undoes_tokenize(model: Model, text: str) -> None:
    tokens = model.vocab.tokenize(text)
    assert model.vocab.detokenize(tokens) == text
    assert b"".join(model.vocab.token_to_piece(token) for token in tokens) == text.encode()


@given(st.text(max_size=60))
def test_text_and_its_utf8_are_the_same(model: Model, text: str) -> None:
    assert model.vocab.tokenize(text) == model.vocab.tokenize(text.encode())
    assert model.vocab.tokenize(bytearray(text.encode())) == model.vocab.tokenize(text)


@given(st.binary(max_size=60))
@example(b"\xff\xfe")
@example(b"\xf0\x9f\x91")
@example(b"\xed\xa0\x80")
def test_bytes_that_are_not_utf8_do_no_harm(model: Model, data: bytes) -> None:
    """What llama.cpp makes of them is its own affair; ids come out, or an error."""
    try:
        tokens = model.vocab.tokenize(data)
    except LlamaCffiError:
        return
    assert isinstance(model.vocab.detokenize(tokens), str)


def test_huge_text(vocab: Vocab) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 20_000
    tokens = vocab.tokenize(text)
    assert len(tokens) > 100_000
    assert vocab.detokenize(tokens) == text


def test_lone_surrogates_are_refused(vocab: Vocab) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        vocab.tokenize("a\ud800b")


@pytest.mark.parametrize("text", [None, 5, 1.5, ["a"], object()])
def test_what_is_not_text_is_refused(vocab: Vocab, text: Any) -> None:
    with pytest.raises(TypeError):
        vocab.tokenize(text)


@pytest.mark.parametrize("tiny", TINY_NAMES, indirect=True)
def test_every_kind_of_tokenizer(tiny: Vocab) -> None:
    tokens = tiny.tokenize("once upon a time", add_special=False)
    assert tokens
    assert "once upon a time" in tiny.detokenize(tokens).replace("\u2581", " ")
    assert tiny.type in ("spm", "bpe", "ugm", "wpm")


def test_the_tiny_models_have_every_kind_of_tokenizer() -> None:
    assert {ARCHITECTURES[name].vocab for name in TINY_NAMES} == {
        kind.vocab for kind in ARCHITECTURES.values()
    }


# -- special tokens -------------------------------------------------------------------------------


def test_a_typed_control_token_stays_text(vocab: Vocab, control_tokens: list[int]) -> None:
    for token in control_tokens:
        spelled = vocab.token_to_piece(token, special=True).decode()
        assert spelled
        assert vocab.tokenize(spelled, parse_special=True) == [token]
        as_text = vocab.tokenize(f"x{spelled}y")
        assert not any(map(vocab.is_control, as_text)), spelled
        assert vocab.detokenize(as_text) == f"x{spelled}y"


def test_control_tokens_are_dropped_or_spelled_out(vocab: Vocab) -> None:
    tokens = vocab.tokenize("<|im_start|>user<|im_end|>", parse_special=True)
    assert len(tokens) == 3
    assert vocab.detokenize(tokens) == "user"
    assert vocab.detokenize(tokens, unparse_special=True) == "<|im_start|>user<|im_end|>"
    assert vocab.token_to_piece(tokens[0]) == b""
    assert vocab.token_to_piece(tokens[0], special=True) == b"<|im_start|>"
    assert vocab.token_to_piece(tokens[0]) == b"", "the spelling was kept for the wrong question"


def test_end_of_generation(vocab: Vocab) -> None:
    (end,) = vocab.tokenize("<|im_end|>", parse_special=True)
    assert vocab.is_eog(end)
    assert not vocab.is_eog(vocab.tokenize("hello")[0])
    assert vocab.eos == end


@pytest.mark.parametrize("tiny", ["llama"], indirect=True)
def test_bos_is_added_where_the_model_wants_it(tiny: Vocab) -> None:
    assert tiny.add_bos
    with_bos = tiny.tokenize("hello")
    assert with_bos[0] == tiny.bos
    assert tiny.tokenize("hello", add_special=False) == with_bos[1:]
    assert tiny.detokenize(with_bos, remove_special=True).strip() == "hello"
    assert tiny.tokenize("") == [tiny.bos]


def test_facts(vocab: Vocab) -> None:
    assert len(vocab) == vocab.n_tokens == 49_152
    assert vocab.type == "bpe"
    assert (vocab.bos, vocab.eos, vocab.fim_prefix) == (1, 2, None)
    assert not vocab.add_bos
    assert not vocab.add_eos
    assert vocab.text(vocab.tokenize(" hello")[0]) == "Ġhello"
    assert isinstance(vocab.score(5), float)
    assert vocab.attributes(1) != vocab.attributes(500)
    assert "bpe" in repr(vocab)


def test_nothing_is_something(vocab: Vocab) -> None:
    assert vocab.tokenize("") == vocab.tokenize(b"") == []
    assert vocab.detokenize([]) == ""
    assert vocab.detokenize_bytes(()) == b""


# -- ids out of range -----------------------------------------------------------------------------

OUT_OF_RANGE = [-1, 10**9, 2**40, -(2**70), 49_152, -(2**31)]
USES: dict[str, Callable[[Vocab, Any], object]] = {
    "detokenize": lambda vocab, token: vocab.detokenize([5, token]),
    "token_to_piece": lambda vocab, token: vocab.token_to_piece(token),
    "spelled": lambda vocab, token: vocab.token_to_piece(token, special=True),
    "is_eog": lambda vocab, token: vocab.is_eog(token),
    "is_control": lambda vocab, token: vocab.is_control(token),
    "text": lambda vocab, token: vocab.text(token),
    "score": lambda vocab, token: vocab.score(token),
    "attributes": lambda vocab, token: vocab.attributes(token),
    "stream": lambda vocab, token: StreamDecoder(vocab).push(token),
}
each_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


@each_use
@pytest.mark.parametrize("token", OUT_OF_RANGE)
def test_ids_outside_the_vocabulary(
    vocab: Vocab, use: Callable[[Vocab, Any], object], token: int
) -> None:
    with pytest.raises(InvalidTokenError, match=str(token)):
        use(vocab, token)


@each_use
@pytest.mark.parametrize("token", [1.5, 7.0, None, "7", b"7", float("nan"), [7]])
def test_ids_that_are_no_integers(
    vocab: Vocab, use: Callable[[Vocab, Any], object], token: Any
) -> None:
    with pytest.raises((TypeError, InvalidTokenError)):
        use(vocab, token)


def test_numpy_integers_are_integers(vocab: Vocab) -> None:
    np = pytest.importorskip("numpy")
    tokens = vocab.tokenize("Hello there")
    array = np.array(tokens, np.int32)
    assert vocab.detokenize(array) == vocab.detokenize(tuple(tokens)) == "Hello there"
    assert vocab.token_to_piece(array[0]) == b"Hello"


@each_use
def test_after_close(model_path: Path, use: Callable[[Vocab, Any], object]) -> None:
    model = Model(model_path, backend="cpu", vocab_only=True)
    vocab = model.vocab
    use(vocab, 700)  # what was kept from before must not be served either
    model.close()
    with pytest.raises(ClosedError):
        use(vocab, 700)
    with pytest.raises(ClosedError):
        vocab.tokenize("x")
    with pytest.raises(ClosedError):
        _ = vocab.bos
    with pytest.raises(ClosedError):
        _ = vocab.type


# -- text in a stream -----------------------------------------------------------------------------


@given(st.text(speakable, max_size=80))
@example(EMOJI)
def test_a_stream_of_tokens_is_the_whole(model: Model, text: str) -> None:
    decoder = StreamDecoder(model.vocab)
    pieces = [decoder.push(token) for token in model.vocab.tokenize(text)]
    assert "".join(pieces) + decoder.finish() == text
    assert not any("\ufffd" in piece for piece in pieces if "\ufffd" not in text)


def test_characters_really_are_split_over_tokens(vocab: Vocab) -> None:
    tokens = vocab.tokenize("🧑🏽‍🚀")
    decoder = StreamDecoder(vocab)
    pieces = [decoder.push(token) for token in tokens]
    assert "" in pieces
    assert "".join(pieces) == "🧑🏽‍🚀"


def test_half_a_character_at_the_end(vocab: Vocab) -> None:
    tokens = vocab.tokenize("ab🧑🏽‍🚀")
    decoder = StreamDecoder(vocab)
    shown = "".join(decoder.push(token) for token in tokens[:-1]) + decoder.finish()
    assert shown.startswith("ab")
    assert shown.endswith("\ufffd")
    assert decoder.push(vocab.tokenize("x")[0]) == "x", "it does not start anew"


def test_a_stream_spells_control_tokens_where_asked(vocab: Vocab) -> None:
    tokens = vocab.tokenize("a<|im_end|>b", parse_special=True)
    for spelled, wanted in (((), "ab"), (tokens, "a<|im_end|>b")):
        decoder = StreamDecoder(vocab, spelled)
        assert "".join(map(decoder.push, tokens)) == wanted


@pytest.fixture(scope="module")
def model_without_vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer.ggml.model is "none": token ids in, logits out."""
    import gguf

    path = tmp_path_factory.mktemp("none") / "none.gguf"
    metadata, tensors = model_contents("llama")
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
    writer.add_string("tokenizer.ggml.model", "none")
    writer.add_uint32("llama.vocab_size", len(tensors["token_embd.weight"]))
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_model_without_a_vocabulary_computes(model_without_vocab: Path) -> None:
    with Model(model_without_vocab, backend="cpu") as model:
        assert model.vocab.type == "none"
        assert model.vocab.bos is None
        with pytest.raises(LlamaCffiError, match="vocab"):
            model.vocab.tokenize("hello")
        with model.context(n_ctx=32, n_threads=1) as context:
            context.decode_tokens([5, 6])
            assert context.logits().shape == (model.vocab.n_tokens,)


IN_CHILD = """
import sys
import llamacffi
vocab = llamacffi.Model(sys.argv[1], backend="cpu").vocab
try:
    print("returned", repr({call}))
except llamacffi.errors.LlamaCffiError as error:
    print("refused", type(error).__name__)
"""


@pytest.mark.parametrize(
    "call",
    [
        "vocab.detokenize([5])", "vocab.token_to_piece(5)", "vocab.token_to_piece(5, True)",
        "vocab.text(5)", "vocab.score(5)", "vocab.attributes(5)", "vocab.is_control(5)",
        "vocab.is_eog(5)", "vocab.eos", "vocab.add_bos", "llamacffi.StreamDecoder(vocab).push(5)",
    ],
)  # fmt: skip
def test_a_model_without_a_vocabulary_crashes_nothing(model_without_vocab: Path, call: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", IN_CHILD.format(call=call), str(model_without_vocab)],
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr[-500:]
    assert child.stdout.startswith(("returned", "refused"))
