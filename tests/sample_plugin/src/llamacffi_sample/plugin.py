"""Everything that a plugin can register, once each."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llamacffi import Backend, NativeNode, Sampler, Vocab, hookimpl
from llamacffi.templates import Message, Prompt, Template


def _libraries() -> Iterable[Path]:
    """A real plugin ships its own library; this one lends llamacffi's."""
    folder = importlib.resources.files("llamacffi") / "lib"
    return [Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".so")]


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    register(Backend("sample", _libraries, priority=-1, remedy="reinstall llamacffi-sample."))


def without_letter(vocab: Vocab, letter: str) -> Callable[..., None]:
    """Ban every token whose text has the letter: a logits processor."""
    pieces = (vocab.token_to_piece(token) for token in range(vocab.n_tokens))
    banned = np.array([letter.encode() in piece.lower() for piece in pieces])

    def processor(tokens: np.ndarray, logits: np.ndarray) -> None:
        logits[banned] = -np.inf

    return processor


def sharp(vocab: Vocab) -> NativeNode:
    """A very low temperature: a native node."""
    library = vocab._library
    return NativeNode(vocab, library.lib.llama_sampler_init_temp(0.01))


@hookimpl
def register_samplers(register: Callable[[Sampler], None]) -> None:
    register(Sampler("without_letter", without_letter, "Ban a letter."))
    register(Sampler("sharp", sharp, "Nearly greedy."))


class Script(Template):
    """A play's script: `NAME: line`."""

    name = "script"

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> Prompt:
        parts: list[tuple[str, bool]] = []
        for message in messages:
            parts += [
                (f"{message['role'].upper()}: ", True),
                (message["content"], False),
                ("\n", True),
            ]
        if add_generation_prompt:
            parts.append(("ASSISTANT:", True))
        return Prompt(tuple(parts), stops=("\n",))

    def parse(self, text: str, partial: bool = False) -> dict[str, Any]:
        return {"role": "assistant", "content": text.strip()}


@hookimpl
def register_templates(register: Callable[[Template], None]) -> None:
    register(Script())
