"""Classes for Ray Data's `map_batches`: columns in, columns of answers out."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llamacffi.engine import AsyncEngine
from llamacffi.errors import LlamaCffiError, ParameterError
from llamacffi.ray.options import EngineOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ChatBatches", "CompletionBatches", "EmbeddingBatches"]

Columns = dict[str, "NDArray[Any]"]
FAILED = "error"  # the finish reason of a row that could not be answered


class _Answers(ABC):
    """A batch through an engine, all rows at once.

    Args:
        options: What each process loads.
        column: The column with what is asked.
        output: The column for the answers.
        arguments: More arguments of each request.
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        column: str,
        output: str,
        arguments: Mapping[str, Any] | None,
    ) -> None:
        if column == output:
            raise ParameterError(f"output={output!r}: that is the column of what is asked.")
        self._column = column
        self._output = output
        self._arguments = dict(arguments or {})
        if self._arguments.keys() & {"stream", "n"}:
            raise ParameterError("arguments: one whole answer is given for each row, so neither "
                                 "stream nor n can be said.")  # fmt: skip
        self._engine = AsyncEngine(options.open())
        # As many as may wait: the next one comes when one is over.
        self._n_most = self._engine.stats().n_queue_max

    def __call__(self, batch: Columns) -> Columns:
        """Answer a batch; Ray Data's call."""
        import numpy as np

        results = asyncio.run(self._answers(batch[self._column]))
        return {
            **batch,
            self._output: np.array([result[0] for result in results], dtype=object),
            "finish_reason": np.array([result[1] for result in results], dtype=object),
            "prompt_tokens": np.array([result[2] for result in results], dtype=np.int64),
            "completion_tokens": np.array([result[3] for result in results], dtype=np.int64),
            "error": np.array([result[4] for result in results], dtype=object),
        }

    async def _answers(self, rows: Iterable[Any]) -> list[tuple[str, str, int, int, str]]:
        room = asyncio.Semaphore(self._n_most)

        async def answer(row: Any) -> tuple[str, str, int, int, str]:
            async with room:
                try:
                    result = await self._ask(row)
                except (LlamaCffiError, TypeError, ValueError) as error:
                    if self._engine.engine.closed:
                        raise  # it is not the row's fault
                    return "", FAILED, 0, 0, str(error) or repr(error)
            choice, usage = result["choices"][0], result["usage"]
            counts = usage["prompt_tokens"], usage["completion_tokens"]
            return self._text(choice), choice["finish_reason"], *counts, ""

        return await asyncio.gather(*map(answer, rows))

    @abstractmethod
    def _ask(self, row: Any) -> Coroutine[Any, Any, dict[str, Any]]:
        """Ask for a row."""

    @abstractmethod
    def _text(self, choice: dict[str, Any]) -> str:
        """What goes into the column of answers."""


class CompletionBatches(_Answers):
    """Completes texts; see `Engine.create_completion` for `arguments`.

    `dataset.map_batches(CompletionBatches, fn_constructor_args=(options,), **options.resources)`,
    with `concurrency` for the number of processes and a `batch_size` well above n_parallel.

    Args:
        options: What each process loads.
        column: The column with the prompts.
        output: The column for the texts. Beside it there are `finish_reason`, `prompt_tokens`,
            `completion_tokens` and `error`: a row that cannot be completed has the finish reason
            "error" and says why there; the others go on.
        arguments: More arguments of each request, such as `{"max_tokens": 100}`.
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        column: str = "prompt",
        output: str = "completion",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(options, column=column, output=output, arguments=arguments)

    def _ask(self, row: Any) -> Coroutine[Any, Any, dict[str, Any]]:
        return self._engine.create_completion(row, **self._arguments)

    def _text(self, choice: dict[str, Any]) -> str:
        return str(choice["text"])


class ChatBatches(_Answers):
    """Answers in conversations; see `Engine.create_chat_completion` for `arguments`.

    Args:
        options: What each process loads.
        column: The column with the conversations: lists of messages, each with "role" and
            "content"; or texts, which are then what the user says.
        output: The column for the answers' contents; the others as with `CompletionBatches`.
        arguments: More arguments of each request, such as `{"response_format": ...}`.
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        column: str = "messages",
        output: str = "answer",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(options, column=column, output=output, arguments=arguments)

    def _ask(self, row: Any) -> Coroutine[Any, Any, dict[str, Any]]:
        return self._engine.create_chat_completion(_messages(row), **self._arguments)

    def _text(self, choice: dict[str, Any]) -> str:
        return str(choice["message"]["content"] or "")


class EmbeddingBatches:
    """Turns texts into vectors, many in one decode.

    Args:
        options: What each process loads.
        column: The column with the texts.
        output: The column for the vectors: float32 of shape (n_rows, n_embd).
        normalize: See `Engine.embed`.
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        column: str = "text",
        output: str = "embedding",
        normalize: bool = True,
    ) -> None:
        self._column = column
        self._output = output
        self._normalize = normalize
        self._engine = options.open()

    def __call__(self, batch: Columns) -> Columns:
        """Embed a batch; Ray Data's call."""
        import numpy as np

        vectors = self._engine.embed(list(batch[self._column]), normalize=self._normalize)
        return {**batch, self._output: np.stack(vectors)}


def _messages(row: Any) -> list[dict[str, Any]]:
    """A conversation as it was before it became part of a column."""
    if isinstance(row, str):
        return [{"role": "user", "content": row}]
    # Messages of one column have the same keys: those that some lack are None there.
    return [{key: value for key, value in message.items() if value is not None} for message in row]
