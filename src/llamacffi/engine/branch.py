"""A text that grows, goes back and divides, on the memory of an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from llamacffi.arguments import reseeded, stops_of
from llamacffi.engine.delivery import Reading
from llamacffi.errors import ParameterError
from llamacffi.generation import Generation, Step, check_fits, logprobs_of
from llamacffi.sampling.params import DEFAULTS, SamplingParams
from llamacffi.vocab import StreamDecoder

if TYPE_CHECKING:
    from llamacffi.engine.engine import Engine

__all__ = ["Branch"]


class Branch:
    """Tokens so far, and ways on from them; `engine.branch(...)` makes one.

    It owns no memory: what the engine still remembers of the tokens is not computed again, and
    what was forgotten is. So forks cost nothing, and as many may be kept as one likes. Not safe
    for several threads; its forks are, each for one.

    Args:
        engine: What computes.
        tokens: Token ids to begin with; may be empty.

    Attributes:
        logprob: The mean log probability of what was generated last; None if that is not known.
    """

    def __init__(self, engine: Engine, tokens: Sequence[int] = ()) -> None:
        self._engine = engine
        self._tokens = list(tokens)
        self.logprob: float | None = None

    @property
    def tokens(self) -> list[int]:
        """All tokens so far."""
        return list(self._tokens)

    @property
    def text(self) -> str:
        """All text so far."""
        return self._engine.model.vocab.detokenize(self._tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def feed(self, text: str | Sequence[int]) -> Branch:
        """Append a text, in which control tokens may be spelled out, or tokens.

        Returns:
            The branch, so that calls can be strung together.
        """
        if isinstance(text, str):
            begins = not self._tokens
            text = self._engine.model.vocab.tokenize(text, add_special=begins, parse_special=True)
        self._tokens.extend(text)
        return self

    def rewind(self, n_tokens: int) -> Branch:
        """Take the last tokens back.

        Raises:
            ParameterError: There are not so many.
        """
        if not 0 <= n_tokens <= len(self._tokens):
            raise ParameterError(
                f"n_tokens={n_tokens}: there are {len(self._tokens)} to take back."
            )
        del self._tokens[len(self._tokens) - n_tokens :]
        return self

    def fork(self) -> Branch:
        """Another branch that goes on from here."""
        return Branch(self._engine, self._tokens)

    # -- going on -----------------------------------------------------------------------------

    def generate(
        self,
        max_tokens: int = 16,
        *,
        sampling: SamplingParams = DEFAULTS,
        stop: str | int | Sequence[str | int] | None = None,
    ) -> str:
        """Go on.

        Args:
            max_tokens: Most tokens to generate.
            sampling: How they are picked.
            stop: Strings or token ids that end the text, and are left out of it.

        Returns:
            What was generated. Where a stop string was found, its tokens are not appended.

        Raises: As Engine.create_completion.
        """
        return "".join(self.stream(max_tokens, sampling=sampling, stop=stop))

    def stream(
        self,
        max_tokens: int = 16,
        *,
        sampling: SamplingParams = DEFAULTS,
        stop: str | int | Sequence[str | int] | None = None,
    ) -> Iterator[str]:
        """Go on, and give the text as it is generated; see `generate`."""
        generation = self._generation(max_tokens, sampling, stop, logprobs=None)
        reading = Reading(self._engine, [generation])
        steps: list[Step] = []
        try:
            for _, step in reading:
                if step is not None:
                    steps.append(step)
                    if step.text:
                        yield step.text
        finally:
            reading.close()
            self._take(generation, steps)

    def n_best(
        self,
        n: int,
        max_tokens: int = 16,
        *,
        sampling: SamplingParams = DEFAULTS,
        stop: str | int | Sequence[str | int] | None = None,
    ) -> list[Branch]:
        """Go on in several ways at once; this branch stays as it is.

        Args:
            n: How many. Each has its own seed.
            max_tokens: Most tokens of each.
            sampling: How they are picked.
            stop: See `generate`.

        Returns:
            The branches, those with the highest mean log probability first.
        """
        if n < 1:
            raise ParameterError(f"n={n}: choose 1 or more.")
        branches = [self.fork() for _ in range(n)]
        generations = [
            branch._generation(max_tokens, reseeded(sampling, index), stop, logprobs=0)
            for index, branch in enumerate(branches)
        ]
        steps: list[list[Step]] = [[] for _ in branches]
        for index, step in Reading(self._engine, generations):
            if step is not None:
                steps[index].append(step)
        for branch, generation, its in zip(branches, generations, steps, strict=True):
            branch._take(generation, its)
            values = [entry.logprob for entry in logprobs_of(its)]
            branch.logprob = sum(values) / len(values) if values else None
        return sorted(branches, key=lambda branch: -(branch.logprob or float("-inf")))

    def _generation(
        self,
        max_tokens: int,
        sampling: SamplingParams,
        stop: str | int | Sequence[str | int] | None,
        logprobs: int | None,
    ) -> Generation:
        model = self._engine.model
        check_fits(self._engine.context, self._tokens, max_tokens)
        return Generation(
            model.vocab,
            sampling.chain(model),
            self._tokens,
            max_tokens=max_tokens,
            stop=stops_of(stop),
            logprobs=logprobs,
        )

    def _take(self, generation: Generation, steps: Sequence[Step]) -> None:
        """Append what was generated, but for what ended it."""
        tokens = [step.token for step in steps]
        if steps and steps[-1].finish_reason == "stop":
            if generation.is_end(tokens[-1]):
                tokens.pop()
            shown = sum(len(step.text) for step in steps)
            decoder = StreamDecoder(self._engine.model.vocab)
            lengths = accumulate(len(decoder.push(token)) for token in tokens)
            tokens = tokens[: sum(length <= shown for length in lengths)]
        self._tokens.extend(tokens)
