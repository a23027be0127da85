"""What a reranker reads: a query and a document, as its training joined them."""

from __future__ import annotations

import re

from llamacffi.embedding import Embedder
from llamacffi.errors import ContextFullError, EmptyInputError, UnsupportedError
from llamacffi.gguf import GGUFFile
from llamacffi.model import Model
from llamacffi.templates.template import Prompt

__all__ = ["Pairs", "check_reranker"]

CLASSIFIERS = {"cls.weight", "cls.output.weight"}
_SLOTS = re.compile(r"(\{query\}|\{document\})")


def check_reranker(model: Model, pooling: str) -> None:
    """Refuse a model that ranks nothing; llama.cpp would pass off an embedding's first number.

    Raises:
        UnsupportedError: It has no classifier, or the context does not use it.
    """
    has_classifier = _has_classifier(model)
    if has_classifier and pooling == "rank":
        return
    if has_classifier:
        raise UnsupportedError(
            f"{model} can rank, but this context has the pooling {pooling!r}. Make it with "
            "embedding=True and pooling_type='rank'."
        )
    raise UnsupportedError(
        f"{model} has no classifier, so it ranks nothing. Use a reranker, such as a GGUF file of "
        "bge-reranker-v2-m3, or compare the vectors that embed() returns."
    )


def _has_classifier(model: Model) -> bool:
    if model.metadata.get("split.count", "1") != "1":
        return True  # its files would all have to be read; the pooling tells
    with GGUFFile(model.library, model.path) as file:
        return any(tensor.name in CLASSIFIERS for tensor in file.tensors())


class Pairs:
    """Joins a query with documents, by the model's template "rerank" or by its special tokens.

    Args:
        embedder: Says what fits.
        query: The query; neither it nor a document can become a control token.

    Raises:
        EmptyInputError: The query is empty.
    """

    def __init__(self, embedder: Embedder, query: str) -> None:
        if not query:
            raise EmptyInputError("The query is empty. Say what is looked for.")
        self._model = embedder.context.model
        self._vocab = self._model.vocab
        self._longest = embedder.longest
        self._query = query
        self._template = self._model.chat_template("rerank")

    def tokens(self, index: int, document: str, truncate: bool) -> list[int]:
        """The tokens of the query with a document, whose end is cut off if need be.

        Raises:
            ContextFullError: They do not fit, or already the query does not.
            EmptyInputError: The document is empty.
        """
        if not document:
            raise EmptyInputError(f"Document {index} is empty. Leave it out.")
        joined = self._joined(document)
        if len(joined) > self._longest and not truncate:
            raise ContextFullError(
                f"Document {index} and the query have {len(joined)} tokens; this context ranks "
                f"{self._longest} at once. Use truncate=True, or make the context with a larger "
                "n_ctx, n_batch and n_ubatch."
            )
        while len(joined) > self._longest:
            tokens = self._vocab.tokenize(document, add_special=False)
            kept = len(tokens) - (len(joined) - self._longest)
            if kept < 1:
                raise ContextFullError(
                    f"The query leaves no room for document {index}: this context ranks "
                    f"{self._longest} tokens at once. Shorten it, or make the context with a "
                    "larger n_ctx, n_batch and n_ubatch."
                )
            # Joined anew, its tokens may be others, and even more.
            shorter = self._vocab.detokenize(tokens[:kept])
            document = shorter if len(shorter) < len(document) else document[: len(document) // 2]
            joined = self._joined(document)
        return joined

    def _joined(self, document: str) -> list[int]:
        if self._template is None:
            return self._by_special_tokens(document)
        contents = {"{query}": self._query, "{document}": document}
        parts = tuple(
            (contents.get(part, part), part not in contents)
            for part in _SLOTS.split(self._template)
            if part
        )
        return Prompt(parts).tokens(self._vocab)

    def _by_special_tokens(self, document: str) -> list[int]:
        vocab = self._vocab
        end = vocab.sep if vocab.eos is None else vocab.eos
        bos = [vocab.bos] if vocab.add_bos else []
        eos = [end] if vocab.add_eos else []
        sep = [vocab.sep] if vocab.add_sep else []
        query = vocab.tokenize(self._query, add_special=False)
        tokens = [*bos, *query, *eos, *sep, *vocab.tokenize(document, add_special=False), *eos]
        return [token for token in tokens if token is not None]
