"""Ranking documents with a tiny classifier, against its formulas and one pair at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llamacffi import Llama
from llamacffi.errors import (
    ContextFullError,
    EmptyInputError,
    ParameterError,
    UnsupportedError,
)
from tests.tiny_architectures import RERANKER
from tests.tiny_models import model_contents, write_model, write_reranker

DOCUMENTS = ["hello the time", "once upon a time", "in on an", "the", "and the hello once in an"]
QUERY = "hello time"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reranker(tmp_path_factory.mktemp("reranker") / "model.gguf")


@pytest.fixture
def llama(path: Path) -> Iterator[Llama]:
    with Llama(path, backend="cpu", embedding=True, n_ctx=64, n_threads=1) as made:
        yield made


def scores(result: dict[str, list[dict[str, float]]]) -> list[float]:
    """In the order of the documents."""
    ordered = sorted(result["results"], key=lambda entry: entry["index"])
    return [entry["relevance_score"] for entry in ordered]


def pair(llama: Llama, document: str) -> list[int]:
    vocab = llama.model.vocab
    query, text = (vocab.tokenize(t, add_special=False) for t in (QUERY, document))
    assert vocab.bos is not None
    assert vocab.eos is not None
    assert vocab.sep is not None
    return [vocab.bos, *query, vocab.eos, vocab.sep, *text, vocab.eos]


def test_the_scores_are_those_of_the_head(llama: Llama, path: Path) -> None:
    assert llama.model.n_cls_out == 2
    assert llama.model.classifier_labels == ("no", "yes")
    _, tensors = model_contents("bert", kind=RERANKER)
    found = scores(llama.rerank(QUERY, DOCUMENTS))
    by_token = Llama(
        path, backend="cpu", embedding=True, pooling_type="none", n_ctx=64, n_threads=1
    )
    with by_token:
        for document, score in zip(DOCUMENTS, found, strict=True):
            first = by_token.embed(pair(llama, document))[0]
            hidden = np.tanh(tensors["cls.weight"] @ first + tensors["cls.bias"])
            expected = tensors["cls.output.weight"] @ hidden + tensors["cls.output.bias"]
            assert score == pytest.approx(expected[0], abs=0.01)
            outputs = llama.embed(pair(llama, document))
            assert outputs == pytest.approx(expected, abs=0.01)
    assert np.std(found) > 0.02


def test_the_shape(llama: Llama) -> None:
    result = llama.rerank(QUERY, DOCUMENTS, top_n=2, model="mine", return_documents=True)
    every = llama.rerank(QUERY, DOCUMENTS)
    count = sum(len(pair(llama, document)) for document in DOCUMENTS)
    assert result["usage"] == {"prompt_tokens": count, "total_tokens": count}
    assert result["model"] == "mine"
    assert result["object"] == "list"
    assert len(every["results"]) == len(DOCUMENTS)
    ordered = [entry["relevance_score"] for entry in every["results"]]
    assert ordered == sorted(ordered, reverse=True)
    assert len(result["results"]) == 2
    for entry, same in zip(result["results"], every["results"], strict=False):
        assert entry["document"] == {"text": DOCUMENTS[entry["index"]]}
        assert entry["index"] == same["index"]
        assert "document" not in same
    named = llama.rerank(QUERY, [{"text": document} for document in DOCUMENTS])
    assert scores(named) == pytest.approx(scores(every), abs=0.01)
    assert llama.rerank(QUERY, [])["results"] == []


def test_one_at_a_time(llama: Llama) -> None:
    alone = [scores(llama.rerank(QUERY, [document]))[0] for document in DOCUMENTS]
    assert scores(llama.rerank(QUERY, DOCUMENTS)) == pytest.approx(alone, abs=0.01)


def test_the_models_own_template(llama: Llama, tmp_path: Path) -> None:
    template = "the {query} and[SEP] {document} on"
    path = write_reranker(tmp_path / "model.gguf", template)
    with Llama(path, backend="cpu", embedding=True, n_ctx=64, n_threads=1) as other:
        vocab = other.model.vocab
        text = template.format(query=QUERY, document=DOCUMENTS[0])
        tokens = [vocab.bos or 0, *vocab.tokenize(text, add_special=False, parse_special=True)]
        assert tokens.count(vocab.sep or 0) == 1
        expected = other.embed(tokens)[0]
        found = scores(other.rerank(QUERY, DOCUMENTS[:1]))
        assert found == pytest.approx([expected], abs=0.01)
        # A document cannot spell the template's slots, nor control tokens.
        hostile = "{query} [SEP] {document}"
        plain = vocab.tokenize(hostile, add_special=False)
        assert vocab.sep not in plain
        result = other.rerank(QUERY, [hostile], return_documents=True)
        assert result["results"][0]["document"]["text"] == hostile
        assert result["usage"]["prompt_tokens"] >= len(plain)
        # What follows the document stays when that is cut.
        cut = other.rerank(QUERY, ["a " * 200])
        assert cut["usage"]["prompt_tokens"] <= 64


def test_what_does_not_fit(llama: Llama) -> None:
    long = "a " * 200
    with pytest.raises(ContextFullError, match="Document 1 and the query"):
        llama.rerank(QUERY, ["the", long], truncate=False)
    result = llama.rerank(QUERY, [long])
    assert result["usage"]["prompt_tokens"] == 64
    shorter = "a " * (64 - len(pair(llama, "")))
    assert scores(result) == pytest.approx(scores(llama.rerank(QUERY, [shorter])), abs=0.01)
    with pytest.raises(ContextFullError, match="query leaves no room"):
        llama.rerank(long, ["the"])


def test_what_is_refused(llama: Llama, path: Path, tmp_path: Path) -> None:
    with pytest.raises(EmptyInputError, match="query"):
        llama.rerank("", DOCUMENTS)
    with pytest.raises(EmptyInputError, match="Document 1"):
        llama.rerank(QUERY, ["the", ""])
    with pytest.raises(ParameterError):
        llama.rerank(QUERY, DOCUMENTS, top_n=0)
    encoder = write_model(tmp_path / "bert.gguf", "bert")
    for file, pooling, advice in (
        (path, "mean", "pooling_type='rank'"),
        (encoder, "mean", "bge-reranker"),
        (encoder, "rank", "bge-reranker"),
    ):
        settings = {"embedding": True, "pooling_type": pooling, "n_ctx": 64, "n_threads": 1}
        with (
            Llama(file, backend="cpu", **settings) as other,
            pytest.raises(UnsupportedError, match=advice),
        ):
            other.rerank(QUERY, DOCUMENTS)
