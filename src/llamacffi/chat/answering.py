"""One answer in a chat: its prompt, its tokens on whichever sequence is free, and its message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llamacffi.answer import Answer
from llamacffi.chat.overflow import cut_half, follow
from llamacffi.chat.seats import Seats
from llamacffi.context import Context
from llamacffi.errors import CancelledError, ParameterError
from llamacffi.generation import Generation, Step, prepare
from llamacffi.templates import Prompt

__all__ = ["OutputTransform", "Rendered", "Round", "run_seated"]

OutputTransform = Callable[[Iterator[str]], Iterable[str]]


@dataclass(frozen=True)
class Rendered:
    """A prompt and its tokens; as long as these."""

    prompt: Prompt
    tokens: list[int]

    def __len__(self) -> int:
        return len(self.tokens)


class Round:
    """One answer of the model: to the user, or to the results of tools.

    Args:
        answer: What turns text into a message.
        generation: What makes the text.
        steps: Its steps.
        transform: Gets the pieces of the text, and returns those that count.
        on_reasoning: Gets the pieces of the thoughts.
        may_call: Whether it may call tools.
    """

    def __init__(
        self,
        answer: Answer,
        generation: Generation,
        steps: Iterator[Step],
        transform: OutputTransform | None,
        on_reasoning: Callable[[str], object] | None,
        may_call: bool,
    ) -> None:
        self.generation = generation
        self._answer = answer
        self._steps = steps
        self._transform = transform
        self._on_reasoning = on_reasoning
        self._may_call = may_call
        self._shown: list[str] = []
        self._ended = False

    def pieces(self) -> Iterator[str]:
        """What is shown, while it comes."""
        texts = self._texts()
        pieces = texts if self._transform is None else self._transform(texts)
        for piece in pieces:
            if not isinstance(piece, str):
                raise ParameterError(
                    f"The output transform gave {piece!r:.80}: it must give pieces of text, str."
                )
            if piece:
                self._shown.append(piece)
                yield piece

    def message(self) -> dict[str, Any] | None:
        """What is remembered; None if it was stopped before anything was shown."""
        if not self._ended and not self._shown:
            return None
        whole = self._ended and not self._cut
        message = self._answer.message(not whole)
        if self._transform is not None or not self._ended:
            message["content"] = "".join(self._shown)
        if message.get("tool_calls"):
            if whole and self._may_call:
                message["content"] = message["content"] or None
            else:  # cut in the middle of a call, maybe: nobody will carry it out
                del message["tool_calls"]
                message["content"] = message["content"] or ""
        return {key: value for key, value in message.items() if value is not None}

    @property
    def _cut(self) -> bool:
        return self.generation.finish_reason == "length"

    def _texts(self) -> Iterator[str]:
        for step in self._steps:
            yield from self._content(self._answer.push(step.text))
        yield from self._content(self._answer.finish(self._cut))
        self._ended = True

    def _content(self, delta: Mapping[str, Any]) -> Iterator[str]:
        thought, text = delta.get("reasoning_content"), delta.get("content")
        if thought and self._on_reasoning is not None:
            self._on_reasoning(thought)
        if text:
            yield text


def run_seated(
    seats: Seats,
    owner: object,
    generation: Generation,
    reserve: int,
    n_keep: Callable[[], int] | None,
) -> Iterator[Step]:
    """As `generation.run`, on the sequence that the owner has at the moment of each step.

    Others may use the context between two steps: what they displaced is brought back.

    Args:
        seats: The sequences.
        owner: Whose answer it is.
        generation: What to generate.
        reserve: How many tokens it will have, about.
        n_keep: Where the context is full, forget the older half behind so many tokens, and shift
            the rest. None to stop there.
    """
    context = seats.context
    held: list[int] = []  # what the sequence has to hold at the next step

    def begin() -> Step:
        sequence = seats.take(owner, len(generation.prompt) + reserve)
        if n_keep is not None:
            follow(context, sequence, generation.prompt)
        if seats.checkpoints is not None and context.prompt_cache is None:
            seats.checkpoints.restore(context, generation.prompt, sequence)
        position = prepare(context, generation, sequence)
        if seats.checkpoints is not None:
            (context.prompt_cache or seats.checkpoints).remember(context, sequence)
        held.extend(context.memory.tokens(sequence))
        if n_keep is None:
            generation.max_tokens = min(generation.max_tokens, context.n_ctx_seq - position)
        return generation.advance(context)

    def go_on() -> Step:
        alone = seats.is_latest(owner)
        sequence = seats.take(owner, len(held) + 1)
        if not alone or context.memory.position_max(sequence) + 1 != len(held):
            _bring_back(context, sequence, held)
        if n_keep is not None and len(held) >= context.n_ctx_seq:
            cut_half(context, sequence, held, n_keep())
        context.decode_token(step.token, len(held), sequence)
        held.append(step.token)
        return generation.advance(context)

    # Between a decode and the sampling from it, nobody else may decode.
    step = seats.in_turn(begin)
    yield step
    while step.finish_reason is None:
        step = seats.in_turn(go_on)
        yield step


def _bring_back(context: Context, sequence: int, held: list[int]) -> None:
    """Let a sequence hold these tokens again, if somebody changed it."""
    memory, model = context.memory, context.model
    if model.has_encoder:
        raise CancelledError(
            "Somebody else used the context while an answer was read, and what the encoder made "
            "of the prompt is gone. Read a stream to its end first, or use another context."
        )
    kept = memory.common_prefix(held, sequence)
    if kept == len(held) == memory.position_max(sequence) + 1:
        return
    if model.n_swa or not memory.remove(sequence, kept):
        memory.remove(sequence)
        kept = 0
    if kept < len(held):
        context.decode_tokens(held[kept:], sequence=sequence, position=kept, outputs="none")
