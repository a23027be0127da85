"""A real sentence encoder gives the vectors that its authors' formulas give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llamacffi import Llama
from tests.conftest import N_THREADS
from tests.reference_bert import ReferenceBert

SENTENCES = (
    "Once upon a time there was a red fox who lived at the edge of the forest.",
    "Der schnelle braune Fuchs springt über den faulen Hund, während es draußen regnet.",
    "Le café est déjà froid, mais l'été n'est pas fini.",
    "El niño comió una manzana y después durmió la siesta en el jardín.",
    "Волк и семеро козлят жили в лесу.",
    "我喜欢在早晨喝茶。今天天气很好",
    "日本の首都は東京です。",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας.",  # noqa: RUF001 - Greek
    "القاهرة عاصمة مصر",
    "def add(a: int, b: int) -> int:\n    return a + b  # sums",
    "E = mc², π ≈ 3.14159 and 10 € are not 100% the same!",
)
LENGTHS = (1, 2, 3, 5, 8) * 7 + (30, 100)


def texts() -> list[str]:
    """More than 50, from a word to some 300 tokens."""
    found = [
        *SENTENCES,
        "a",
        "Hello",
        "hello",
        "\ttabs\u00a0and  spaces\n",
    ]
    words = " ".join(SENTENCES).split()
    for seed, length in enumerate(LENGTHS):
        random = np.random.default_rng(seed)
        found.append(" ".join(random.choice(words, length)))
    return found


@pytest.fixture(scope="module")
def reference(minilm: Path) -> ReferenceBert:
    return ReferenceBert(minilm)


@pytest.fixture(scope="module")
def llama(minilm: Path) -> Iterator[Llama]:
    with Llama(minilm / "model.gguf", backend="cpu", embedding=True, n_threads=N_THREADS) as made:
        yield made


def test_the_vectors_are_those_of_the_formulas(llama: Llama, reference: ReferenceBert) -> None:
    given = texts()
    assert len(given) > 50
    assert llama.context.pooling == "mean"
    packed = llama.embed(given, normalize=True)
    for text, vector in zip(given, packed, strict=True):
        expected = reference.embed(reference.tokens(text))
        assert vector @ expected > 0.999, text
        single = llama.embed(text, normalize=True)
        assert single @ expected > 0.999, text


def test_the_tokens_are_those_of_an_independent_tokenizer(
    llama: Llama, reference: ReferenceBert
) -> None:
    for text in texts():
        assert llama.tokenize(text) == reference.tokens(text), text


def test_tokens_of_ones_own_tokenizer(llama: Llama, reference: ReferenceBert) -> None:
    # llama.cpp does not take Hangul syllables apart, as the model's own tokenizer does.
    tokens = reference.tokens("서울은 한국의 수도이다")
    assert llama.embed(tokens, normalize=True) @ reference.embed(tokens) > 0.999


def test_a_text_cannot_spell_control_tokens(llama: Llama) -> None:
    vocab = llama.model.vocab
    tokens = llama.context.model.vocab.tokenize("[SEP] [CLS]")
    assert tokens[0] == vocab.bos
    assert tokens[-1] == vocab.sep
    assert not {vocab.bos, vocab.sep} & set(tokens[1:-1])


def test_what_means_the_same_is_near(llama: Llama) -> None:
    documents = ["A cat lies on the sofa.", "Prices rose by two per cent.", "Bake it for an hour."]
    query = llama.embed("Where is the kitten?", normalize=True)
    found = np.stack(llama.embed(documents, normalize=True)) @ query
    assert found.argmax() == 0
    assert found[0] > 2 * found[1:].max()
