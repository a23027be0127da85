"""Chat sessions in tests: tiny models, answers that are known beforehand, and what must hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamacffi import ChatSession, Context, Model, SamplingParams
from llamacffi.vocab import Vocab
from tests.tiny_models import write_model

__all__ = ["GREEDY", "Scripted", "roles", "scripted", "session_on", "tiny_model"]

GREEDY = SamplingParams(temperature=0)


class Scripted:
    """A logits processor that lets the model say what the test wants, answer by answer."""

    def __init__(self, vocab: Vocab, answers: Sequence[str]) -> None:
        self._vocab = vocab
        self._answers = iter(answers)
        self._left: list[int] = []
        self._expected = 0

    def __call__(self, tokens: NDArray[np.intc], logits: NDArray[np.float32]) -> None:
        if not self._left or len(tokens) != self._expected:
            text = next(self._answers)
            end = self._vocab.eos
            assert end is not None
            self._left = [*self._vocab.tokenize(text, add_special=False), end]
        token = self._left.pop(0)
        self._expected = len(tokens) + 1
        logits[:] = -np.inf
        logits[token] = 0


def scripted(vocab: Vocab, *answers: str) -> SamplingParams:
    return SamplingParams(temperature=0, processors=[Scripted(vocab, answers)])


@contextmanager
def tiny_model(folder: Path, architecture: str = "falcon", seed: int = 0) -> Iterator[Model]:
    path = write_model(folder / f"{architecture}-{seed}.gguf", architecture, seed=seed)
    with Model(path, backend="cpu") as model:
        yield model


def session_on(context: Context, **options: Any) -> ChatSession:
    return ChatSession(context, **{"sampling": GREEDY, "max_tokens": 6, **options})


def roles(session: ChatSession) -> str:
    """The first letters of the roles of its messages."""
    return "".join(message["role"][0] for message in session.messages)
