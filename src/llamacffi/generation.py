"""One sequence's way from prompt to text: the state machine that every front end drives.

A `Generation` knows nothing of decoding. Somebody decodes its prompt, then calls `advance` with
the context and the output's index, decodes the token that came out, and so on until a step has a
finish reason. `run` does that for one sequence; an engine does it for many in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacffi.errors import ContextFullError, EmptyInputError, UnsupportedError
from llamacffi.logprobs import TokenLogprobs, token_logprobs
from llamacffi.stopping import StopStrings
from llamacffi.vocab import StreamDecoder, Vocab, check_tokens

if TYPE_CHECKING:
    from llamacffi.context import Context
    from llamacffi.sampling.chain import SamplerChain

__all__ = ["Generation", "Step", "Usage", "check_fits", "prepare", "run"]

StoppingCriterion = Callable[[Sequence[int], "Context"], bool]


@dataclass(frozen=True)
class Step:
    """What one token brought.

    Attributes:
        token: Its id.
        text: The text that can be shown now: whole characters, no part of a stop string.
        finish_reason: "stop" (the model ended, or a stop matched), "length", or None to go on.
        logprobs: The token's log probabilities, if they were asked for.
    """

    token: int
    text: str
    finish_reason: str | None = None
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens used.

    Attributes:
        prompt_tokens: In the prompt.
        completion_tokens: Generated, an end token not counted.
        cached_tokens: Of the prompt, those that the memory held already.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


class Generation:
    """The state of one answer.

    Args:
        vocab: The model's vocabulary.
        chain: Picks the tokens.
        prompt: Token ids; at least one.
        max_tokens: Most tokens to generate.
        stop: Strings that end the text; they are not part of it.
        ignore_eos: Go on after an end-of-generation token, as if it were text.
        logprobs: How many alternatives to report per token; None for no log probabilities.
        criteria: Called after each token with all tokens and the context; true ends the text.
        special: Spell control tokens out in the text.
    """

    def __init__(
        self,
        vocab: Vocab,
        chain: SamplerChain,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        stop: Iterable[str] = (),
        ignore_eos: bool = False,
        logprobs: int | None = None,
        criteria: StoppingCriterion | None = None,
        special: bool = False,
    ) -> None:
        prompt = check_tokens(prompt, vocab.n_tokens)
        if not prompt:
            raise EmptyInputError(
                "The prompt is empty. Give it a word, or a BOS token to start from."
            )
        chain.check()
        self._vocab = vocab
        self._chain = chain
        self._decoder = StreamDecoder(vocab, special)
        self._stops = StopStrings(stop)
        self._ignore_eos = ignore_eos
        self._logprobs = logprobs
        self._criteria = criteria
        self.prompt = prompt
        self.tokens = list(prompt)  # prompt and completion
        self.max_tokens = max_tokens
        self.n_cached = 0
        self.finish_reason: str | None = None
        chain.reset()
        chain.accept_prompt(prompt)

    @property
    def usage(self) -> Usage:
        """The tokens used so far."""
        return Usage(len(self.prompt), len(self.tokens) - len(self.prompt), self.n_cached)

    def advance(self, context: Context, index: int = -1) -> Step:
        """Pick the next token from an output of the last decode and see what it means.

        Args:
            context: Where the sequence was decoded.
            index: The output's place in the batch.

        Raises:
            Exception: What a logits processor, the sampler or a stopping criterion raised.
        """
        logits = None
        if self._logprobs is not None:
            logits = context.logits(index)
            if self._chain.processors:
                logits = logits.copy()  # they change it in place
        token = self._chain.sample(context, index, self.tokens)
        logprobs = None
        if logits is not None and self._logprobs is not None:
            logprobs = token_logprobs(logits, token, self._logprobs)
        if not self._ignore_eos and self._vocab.is_eog(token):
            return self._finish(token, "stop", "", None)
        self.tokens.append(token)
        text = self._stops.push(self._decoder.push(token))
        if self._stops.matched is not None:
            return self._finish(token, "stop", text, logprobs, flush=False)
        if self._criteria is not None and self._criteria(self.tokens, context):
            return self._finish(token, "stop", text, logprobs)
        if len(self.tokens) - len(self.prompt) >= self.max_tokens:
            return self._finish(token, "length", text, logprobs)
        return Step(token, text, None, logprobs)

    def _finish(
        self, token: int, reason: str, text: str, logprobs: TokenLogprobs | None, flush: bool = True
    ) -> Step:
        if flush:
            text += self._stops.push(self._decoder.finish()) + self._stops.finish()
            if self._stops.matched is not None:
                reason = "stop"
        self.finish_reason = reason
        return Step(token, text, reason, logprobs)


def check_fits(context: Context, prompt: Sequence[int]) -> None:
    """Refuse a prompt that leaves no room for an answer, with ContextFullError."""
    if len(prompt) >= context.n_ctx_seq:
        raise ContextFullError(
            f"The prompt has {len(prompt)} tokens; the context holds {context.n_ctx_seq}, and one "
            "at least must be left for the answer. Shorten the prompt, or use a larger n_ctx."
        )


def prepare(context: Context, generation: Generation, sequence: int = 0) -> int:
    """Decode the prompt, all but what the memory holds already.

    Returns:
        The position of the first token to be generated.

    Raises:
        ContextFullError: The prompt does not fit.
        UnsupportedError: The model cannot generate.
        CancelledError: The context was cancelled.
    """
    model, memory, prompt = context.model, context.memory, generation.prompt
    if not model.has_decoder or not context._has_memory:
        raise UnsupportedError(f"{model} is an encoder: it makes embeddings, not text.")
    check_fits(context, prompt)
    if model.has_encoder:
        memory.remove(sequence)
        context.encode(prompt)
        start = model.decoder_start_token
        first = start if start is not None else model.vocab.bos
        context.decode_tokens([first if first is not None else 0], sequence=sequence)
        return 1
    # The last token is decoded again in any case: its logits are needed.
    kept = min(memory.common_prefix(prompt, sequence), len(prompt) - 1)
    if model.n_swa and memory.position_min(sequence) > max(0, kept - model.n_swa):
        kept = 0  # the sliding window has moved past what would be attended to
    if memory.position_max(sequence) >= kept and not memory.remove(sequence, kept):
        memory.remove(sequence)  # a recurrent state cannot go back
        kept = 0
    generation.n_cached = kept
    context.decode_tokens(prompt[kept:], sequence=sequence, position=kept)
    return len(prompt)


def run(context: Context, generation: Generation, sequence: int = 0) -> Iterator[Step]:
    """Generate on one sequence of a context; yields a step per token, the last with a reason.

    Raises: As prepare, Context.decode_token and Generation.advance.
    """
    position = prepare(context, generation, sequence)
    room = context.n_ctx_seq - position
    generation.max_tokens = min(generation.max_tokens, room)
    while True:
        step = generation.advance(context)
        yield step
        if step.finish_reason is not None:
            return
        context.decode_token(step.token, position, sequence)
        position += 1
