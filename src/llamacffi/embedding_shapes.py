"""Vectors and scores in the shapes of OpenAI's embeddings and of Jina's and Cohere's reranking."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llamacffi.errors import ParameterError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ENCODINGS", "check_encoding", "embedding_result", "rerank_result"]

ENCODINGS = ("float", "base64")


def embedding_result(
    vectors: Sequence[NDArray[np.float32]], model: str, n_tokens: int, encoding: str
) -> dict[str, Any]:
    """OpenAI's CreateEmbeddingResponse."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": _encoded(vector, encoding), "index": index}
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": _usage(n_tokens),
    }


def rerank_result(
    scores: Sequence[float],
    documents: Sequence[str],
    model: str,
    n_tokens: int,
    top_n: int | None,
    return_documents: bool,
) -> dict[str, Any]:
    """What llama-server's /v1/rerank answers: the best documents first."""
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[:top_n]
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": scores[index]} for index in best
    ]
    if return_documents:
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    return {"model": model, "object": "list", "usage": _usage(n_tokens), "results": results}


def check_encoding(encoding: str, pooling: str) -> None:
    """Refuse an encoding_format that there is not, or not for these vectors."""
    if encoding not in ENCODINGS:
        raise ParameterError(f"encoding_format={encoding!r}: choose one of {', '.join(ENCODINGS)}.")
    if encoding == "base64" and pooling == "none":
        raise UnsupportedError(
            "encoding_format='base64' is for one vector per text; with pooling 'none' there is one "
            "per token. Use encoding_format='float', or another pooling_type."
        )


def _usage(n_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": n_tokens, "total_tokens": n_tokens}


def _encoded(vector: NDArray[np.float32], encoding: str) -> Any:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return vector.tolist()
