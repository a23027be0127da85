"""Turning texts into vectors, and ranking documents: a front end says where packs are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamacffi.backends import AUTO
from llamacffi.embedding import Embedder, Text, Truncate
from llamacffi.embedding_shapes import check_encoding, embedding_result, rerank_result
from llamacffi.errors import EmptyInputError, ParameterError
from llamacffi.model import Model
from llamacffi.normalization import Normalize, finished, norm_of
from llamacffi.reranking import Pairs, check_reranker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ContextSizes", "Embedding"]

N_SEQUENCES = 64  # texts in a pack
N_STATES = 8  # the same where each sequence has a state of its own, whether it is used or not

Texts = Text | Sequence[Text]


@dataclass(frozen=True)
class ContextSizes:
    """The sizes of a context, by the names of `Context`."""

    n_ctx: int | str
    n_batch: int
    n_ubatch: int
    n_seq_max: int = 1
    n_outputs_max: int | None = None

    @classmethod
    def for_embedding(
        cls, model: Model, n_ctx: int | str, n_batch: int, n_ubatch: int
    ) -> ContextSizes:
        """The sizes for many texts at once, each of which may fill the context.

        An encoder sees all of a text at once, so n_batch and n_ubatch follow n_ctx.
        """
        length = model.n_ctx_train if n_ctx in (0, AUTO) else int(n_ctx)
        n_batch, n_ubatch = min(n_batch, length), min(n_ubatch, length)
        if _is_encoder(model):
            n_batch = n_ubatch = min(length, model.n_ctx_train or length)
        has_states = model.is_recurrent or model.is_hybrid
        n_seq_max = min(N_STATES if has_states else N_SEQUENCES, n_batch)
        return cls(n_ctx, n_batch, n_ubatch, n_seq_max, n_batch)


def _is_encoder(model: Model) -> bool:
    causal = model.metadata.get(f"{model.architecture}.attention.causal", "true")
    # The one that llama.cpp knows without the key.
    return causal == "false" or model.has_encoder or model.architecture == "gemma-embedding"


class Embedding(ABC):
    """What embeds and ranks: a front end inherits it, and says how packs are computed.

    Attributes:
        model: The model.
        model_path: Its name in results.
    """

    model: Model
    model_path: str

    @abstractmethod
    def _embedder(self) -> Embedder:
        """What computes vectors."""

    @abstractmethod
    def _run_packs(self, texts: list[list[int]]) -> list[NDArray[np.float32]]:
        """Compute texts, pack by pack; returns what `Embedder.run` does."""

    def embed(
        self,
        input: Texts,  # noqa: A002 - llama-cpp-python's name
        normalize: Normalize = False,
        truncate: Truncate = True,
        return_count: bool = False,
        *,
        dimensions: int | None = None,
    ) -> Any:
        """Turn texts into vectors.

        Args:
            input: A text, or a list of texts; each a string, or a list of token ids.
            normalize: True or "euclidean" for vectors of length 1, so that their products are
                cosines; "taxicab" for a sum of absolute values of 1; "max-absolute" for a largest
                of 32760; another number for the exponent of a norm; False for none.
            truncate: What becomes of a text that is too long: True or "end" cuts its end off,
                "start" its beginning, False raises ContextFullError.
            return_count: Also return how many tokens were computed.
            dimensions: Keep so many numbers, and make the length 1 unless `normalize` says
                otherwise; for models that were trained for it.

        Returns:
            float32 of shape (n_embd_out,) for a text, a list of such for a list; with pooling
            "none" each is (number of tokens, n_embd_out), with "rank" (n_cls_out,).

        Raises:
            UnsupportedError: This Llama was made without embedding=True.
            ContextFullError: A text is too long, and truncate=False.
            EmptyInputError: A text is empty.
            InvalidTokenError: A token id outside the vocabulary.
            ParameterError: An argument out of its range.
        """
        texts, single = _listed(input)
        vectors, count = self._embed(texts, normalize, truncate, dimensions)
        result = vectors[0] if single else vectors
        return (result, count) if return_count else result

    def create_embedding(
        self,
        input: Texts,  # noqa: A002 - OpenAI's name
        model: str | None = None,
        *,
        encoding_format: str = "float",
        dimensions: int | None = None,
        normalize: Normalize = False,
        truncate: Truncate = True,
    ) -> dict[str, Any]:
        """Turn texts into vectors, in the shape of OpenAI's embeddings.

        Args:
            input: A text, or a list of texts; each a string, or a list of token ids.
            model: The model's name in the result.
            encoding_format: "float" for lists of numbers, "base64" for little-endian float32.
            dimensions: See `embed`.
            normalize: See `embed`; OpenAI's vectors have length 1.
            truncate: See `embed`.

        Returns:
            A dictionary with `data[i]["embedding"]` and `usage`.

        Raises: As embed; EmptyInputError also for no texts at all.
        """
        texts, _ = _listed(input)
        if not texts:
            raise EmptyInputError("There is nothing to embed. Give one text or more.")
        check_encoding(encoding_format, self._embedder().context.pooling)
        vectors, count = self._embed(texts, normalize, truncate, dimensions)
        return embedding_result(vectors, model or self.model_path, count, encoding_format)

    def rerank(
        self,
        query: str,
        documents: Sequence[str | Mapping[str, str]],
        top_n: int | None = None,
        *,
        model: str | None = None,
        return_documents: bool = False,
        truncate: bool = True,
    ) -> dict[str, Any]:
        """Order documents by how well they answer a query; needs a reranker.

        Args:
            query: What is looked for.
            documents: Texts, or dictionaries with a "text".
            top_n: Return the best so many; None for all.
            model: The model's name in the result.
            return_documents: Put the texts into the result.
            truncate: Cut the end of a document off that is too long; else ContextFullError.

        Returns:
            A dictionary in the shape of llama-server's /v1/rerank (Jina's and Cohere's):
            `results`, the best first, each with `index` and `relevance_score`, the model's first
            output as it is; and `usage`.

        Raises:
            UnsupportedError: The model is no reranker, or this Llama was made without
                embedding=True.
            ContextFullError: The query is too long; or a document, with truncate=False.
            EmptyInputError: The query or a document is empty.
            ParameterError: top_n is less than 1.
        """
        if top_n is not None and top_n < 1:
            raise ParameterError(f"top_n={top_n}: choose 1 or more, or None for all.")
        embedder = self._embedder()
        check_reranker(self.model, embedder.context.pooling)
        texts = [text if isinstance(text, str) else text["text"] for text in documents]
        pairs = Pairs(embedder, query)
        tokens = [pairs.tokens(index, text, truncate) for index, text in enumerate(texts)]
        scores = [float(vector[0]) for vector in self._run_packs(tokens)]
        count = sum(map(len, tokens))
        name = model or self.model_path
        return rerank_result(scores, texts, name, count, top_n, return_documents)

    # -- helpers ------------------------------------------------------------------------------

    def _embed(
        self,
        texts: Sequence[Text],
        normalize: Normalize,
        truncate: Truncate,
        dimensions: int | None,
    ) -> tuple[list[NDArray[np.float32]], int]:
        cut = dimensions is not None and normalize is False
        norm = norm_of("euclidean" if cut else normalize)
        tokens = self._embedder().tokenize(texts, truncate)
        vectors = self._run_packs(tokens)
        return [finished(v, norm, dimensions) for v in vectors], sum(map(len, tokens))


def _listed(given: Texts) -> tuple[list[Text], bool]:
    """The texts, and whether it was a single one."""
    if isinstance(given, str | bytes):
        return [given], True
    texts: list[Any] = list(given)
    if texts and not hasattr(texts[0], "__len__"):
        return [texts], True  # token ids
    return texts, False
