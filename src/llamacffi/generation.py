"""One sequence's way from prompt to text: the state machine that every front end drives.

A `Generation` knows nothing of decoding. Somebody decodes its prompt, then calls `advance` with
the context and the output's index, decodes the token that came out, and so on until a step has a
finish reason. `run` does that for one sequence; an engine does it for many in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacffi.errors import (
    ContextFullError,
    EmptyInputError,
    ParameterError,
    UnsupportedError,
)
from llamacffi.logprobs import TokenLogprobs, token_logprobs
from llamacffi.sampling.following import Following
from llamacffi.sampling.history import TokenHistory
from llamacffi.scoring import score_prompt
from llamacffi.stopping import StopStrings
from llamacffi.vocab import StreamDecoder, Vocab, check_tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llamacffi.context import Context
    from llamacffi.sampling.chain import SamplerChain

__all__ = [
    "Generation",
    "Step",
    "Usage",
    "check_fits",
    "logprobs_of",
    "prepare",
    "run",
    "run_drafted",
]

# Gets the tokens so far, and where the logits are that the last one was picked from.
StoppingCriterion = Callable[[Sequence[int], "Context", int], bool]
# Proposes the tokens that may come next, given those so far (int32); any number, also none.
Drafter = Callable[["NDArray[np.intc]"], Sequence[int]]

# How many tokens are worth keeping in a prompt cache: before they are forgotten, and, in an eager
# cache, right after they were computed.
FORGOTTEN_TOKENS, COMPUTED_TOKENS = 64, 256


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


def logprobs_of(steps: Iterable[Step]) -> list[TokenLogprobs]:
    """The log probabilities of the steps that have some."""
    return [step.logprobs for step in steps if step.logprobs is not None]


@dataclass(frozen=True)
class Usage:
    """Tokens used.

    Attributes:
        prompt_tokens: In the prompt.
        completion_tokens: Generated, an end token not counted.
        cached_tokens: Of the prompt, those that the memory or a prompt cache held already.
        accepted_tokens: Of the completion, those that a draft had foretold.
        rejected_tokens: Drafted tokens that were not picked.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    accepted_tokens: int = 0
    rejected_tokens: int = 0

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
        max_tokens: Most tokens to generate; 0 to decode the prompt only.
        min_tokens: Least tokens to generate: until then no end token is picked, and what would
            stop the text is not looked for.
        stop: Strings, or token ids, that end the text; they are not part of it.
        ignore_eos: Never pick an end-of-generation token.
        logprobs: How many alternatives to report per token; None for no log probabilities.
        prompt_logprobs: Report those of the prompt's tokens, too.
        criteria: Called after each token with all tokens, the context and the output's index; true
            ends the text.
        spelled: Control tokens that the text spells out; others do not show in it.

    Attributes:
        history: The tokens so far, prompt included.
        prompt_scores: With prompt_logprobs, one entry for each of the prompt's tokens but the
            first, once the prompt is decoded.
    """

    def __init__(
        self,
        vocab: Vocab,
        chain: SamplerChain,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        min_tokens: int = 0,
        stop: Iterable[object] = (),
        ignore_eos: bool = False,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        criteria: StoppingCriterion | None = None,
        spelled: Collection[int] = (),
    ) -> None:
        prompt = check_tokens(prompt, vocab.n_tokens)
        if not prompt:
            raise EmptyInputError(
                "The prompt is empty. Give it a word, or a BOS token to start from."
            )
        if min_tokens < 0 or min_tokens > max_tokens:
            raise ParameterError(f"min_tokens={min_tokens}: choose 0 to max_tokens={max_tokens}.")
        chain.check()
        stops = list(stop)
        numbers = [stop for stop in stops if isinstance(stop, int) and not isinstance(stop, bool)]
        texts = [stop for stop in stops if isinstance(stop, bool) or not isinstance(stop, int)]
        self._stop_tokens = frozenset(check_tokens(numbers, vocab.n_tokens))
        self._vocab = vocab
        self.n_vocab = vocab.n_tokens
        self._chain = chain
        self._decoder = StreamDecoder(vocab, spelled)
        self._stops = StopStrings(texts)
        self._min_tokens = min_tokens
        self._ends = [*vocab.eog_tokens, *self._stop_tokens] if min_tokens else []
        self._never = vocab.eog_tokens if ignore_eos else []
        self.logprobs = logprobs
        self._criteria = criteria
        self.history = TokenHistory(prompt)
        self.wants_prompt_scores = prompt_logprobs
        self.prompt_scores: list[TokenLogprobs] = []
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.n_cached = 0
        self.n_accepted = 0
        self.n_rejected = 0
        self.finish_reason: str | None = None

    def begin(self) -> None:
        """Make the samplers ready for this text: now, since another one may use them before."""
        self._chain.reset()
        self._chain.accept_prompt(self.prompt)

    def follow(self, tokens: Sequence[int]) -> None:
        """Let the answer begin with these tokens, as if they had been picked; before `begin`.

        Args:
            tokens: Token ids; what an interrupted generation of the same request had picked.
        """
        known = check_tokens(tokens, self.n_vocab)
        if known:
            self._chain.add(Following(known, len(self.prompt)))

    @property
    def tokens(self) -> list[int]:
        """Prompt and completion so far."""
        return self.history.tokens

    @property
    def n_generated(self) -> int:
        """How many tokens the completion has so far."""
        return len(self.history.tokens) - len(self.prompt)

    @property
    def usage(self) -> Usage:
        """The tokens used so far."""
        return Usage(
            len(self.prompt), self.n_generated, self.n_cached, self.n_accepted, self.n_rejected
        )

    def is_end(self, token: int) -> bool:
        """Whether a token ends the text."""
        return token in self._stop_tokens or self._vocab.is_eog(token)

    def fit(self, room: int) -> None:
        """Generate no more tokens than there is room for; end here if that is none."""
        self.max_tokens = min(self.max_tokens, room)
        if self.max_tokens == 0:  # the prompt was all that was wanted
            self.finish_reason = "length"

    def advance(self, context: Context, index: int = -1) -> Step:
        """Pick the next token from an output of the last decode and see what it means.

        Args:
            context: Where the sequence was decoded.
            index: The output's place in the batch.

        Raises:
            SamplingError: Every token is banned or refused.
            Exception: What a logits processor, the sampler or a stopping criterion raised.
        """
        too_short = self.n_generated < self._min_tokens
        banned = self._ends if too_short else self._never
        logits = None
        if self.logprobs is not None:
            logits = context.logits(index)
            if self._chain.processors or banned:
                logits = logits.copy()  # they are changed in place
        token = self._chain.sample(context, index, self.history, banned)
        logprobs = None
        if logits is not None and self.logprobs is not None:
            logprobs = token_logprobs(logits, token, self.logprobs)
        if self.is_end(token):
            return self._finish(token, "stop", "", None)
        self.history.tokens.append(token)
        text = self._decoder.push(token)
        if not too_short:
            text = self._stops.push(text)
            if self._stops.matched is not None:
                return self._finish(token, "stop", text, logprobs, flush=False)
        enough = self.n_generated >= self._min_tokens
        if enough and self._criteria is not None and self._criteria(self.tokens, context, index):
            return self._finish(token, "stop", text, logprobs)
        if self.n_generated >= self.max_tokens:
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


def check_fits(context: Context, prompt: Sequence[int], max_tokens: int = 1) -> None:
    """Refuse a prompt that leaves no room for an answer, if there is to be one, with
    ContextFullError.
    """
    if len(prompt) + min(max_tokens, 1) > context.n_ctx_seq:
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
    check_fits(context, prompt, generation.max_tokens)
    generation.begin()
    if generation.wants_prompt_scores:
        generation.prompt_scores = score_prompt(context, prompt, generation.logprobs or 0, sequence)
        return len(prompt)
    if model.has_encoder:
        memory.remove(sequence)
        context.encode(prompt)
        start = model.decoder_start_token
        first = start if start is not None else model.vocab.bos
        context.decode_tokens([first if first is not None else 0], sequence=sequence)
        return 1
    cache = context.prompt_cache
    if cache is not None:
        cache.restore(context, prompt, sequence)
    kept = memory.reusable_prefix(prompt, sequence)
    if cache is not None and memory.position_max(sequence) - kept >= FORGOTTEN_TOKENS:
        cache.remember(context, sequence)
    if memory.position_max(sequence) >= kept and not memory.remove(sequence, kept):
        memory.remove(sequence)  # a recurrent state cannot go back
        kept = 0
    generation.n_cached = kept
    context.decode_tokens(prompt[kept:], sequence=sequence, position=kept)
    if cache is not None and cache.eager and len(prompt) - kept >= COMPUTED_TOKENS:
        cache.remember(context, sequence)
    return len(prompt)


def run(context: Context, generation: Generation, sequence: int = 0) -> Iterator[Step]:
    """Generate on one sequence of a context; yields a step per token, the last with a reason.

    Raises: As prepare, Context.decode_token and Generation.advance.
    """
    position = _start(context, generation, sequence)
    while generation.finish_reason is None:
        step = generation.advance(context)
        yield step
        if step.finish_reason is None:
            context.decode_token(step.token, position, sequence)
            position += 1


def run_drafted(
    context: Context, generation: Generation, drafter: Drafter, sequence: int = 0
) -> Iterator[Step]:
    """As run, but decode tokens that a drafter proposes together with the last one.

    Each is checked by picking a token as without a draft: what comes out is what `run` gives, but
    for the last digits of the logits, which depend on how many tokens are computed at once.

    Raises:
        UnsupportedError: The memory cannot take back tokens that were not picked.
    """
    most = draft_room(context)
    position = _start(context, generation, sequence)
    if generation.finish_reason is not None:
        return
    step = generation.advance(context)
    yield step
    while step.finish_reason is None:
        room = min(most, generation.max_tokens - generation.n_generated - 1)
        rows = [step.token, *(_proposal(drafter, generation, room) if room > 0 else ())]
        context.decode_tokens(rows, sequence=sequence, position=position, outputs="all")
        steps: list[Step] = []
        failure: Exception | None = None
        try:
            for row in range(len(rows)):
                step = generation.advance(context, row)
                steps.append(step)
                if step.finish_reason is not None or rows[row + 1 : row + 2] != [step.token]:
                    break
        except Exception as error:
            failure = error
        finally:
            # Every step but the last was in the draft, and so in the memory.
            position += max(1, len(steps))
            if not context.memory.remove(sequence, position):
                context.memory.remove(sequence)  # the next prompt is computed from its start
        picked = sum(step.token == token for step, token in zip(steps, rows[1:], strict=False))
        generation.n_accepted += picked
        generation.n_rejected += len(rows) - 1 - picked
        yield from steps
        if failure is not None:
            raise failure


def _proposal(drafter: Drafter, generation: Generation, room: int) -> list[int]:
    proposed = drafter(generation.history.array())
    try:
        tokens = check_tokens(list(proposed)[:room], generation.n_vocab)
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"The draft model proposed {proposed!r:.80}: {error} It must return token ids."
        ) from None
    ends = (place for place, token in enumerate(tokens, 1) if generation.is_end(token))
    return tokens[: next(ends, len(tokens))]  # what comes behind the end would be in vain


def draft_room(context: Context) -> int:
    """How many drafted tokens one decode of this context can check.

    Raises:
        UnsupportedError: None: its memory is a recurrent state without snapshots.
    """
    room = min(context.n_outputs_max, context.n_batch) - 1
    if context.model.is_recurrent or context.model.is_hybrid:
        room = min(room, context.n_recurrent_snapshots)
    if room < 1:
        raise UnsupportedError(
            f"{context} cannot check drafts: it keeps {context.n_outputs_max} rows of logits, and "
            "would have to take tokens back. Leave out the draft model, or use a larger "
            "n_outputs_max. A recurrent model needs a context with snapshots, if it supports them."
        )
    return room


def _start(context: Context, generation: Generation, sequence: int) -> int:
    position = prepare(context, generation, sequence)
    generation.fit(context.n_ctx_seq - position)
    return position
