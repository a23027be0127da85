"""Who is computed: the waiting get a place and a sequence, and give both back."""

from __future__ import annotations

from llamacffi.context import Context
from llamacffi.engine.line import WaitingLine
from llamacffi.engine.request import Request
from llamacffi.engine.sequences import Sequences
from llamacffi.engine.stats import Counters
from llamacffi.prefix import common_length, distinct_length

__all__ = ["Places"]

# So many tokens are worth waiting for another request to compute them first.
WORTH_WAITING = 16
# Room that each request is to have for going on, before one more gets a place.
HEADROOM = 16


class Places:
    """Those that are computed at a time; used in the engine's thread only.

    Args:
        context: Where they are computed.
        n_parallel: Most of them.
        line: Where the others wait.
        counters: What is counted.

    Attributes:
        running: Those that have a place, in the order in which they got it.
    """

    def __init__(
        self, context: Context, n_parallel: int, line: WaitingLine, counters: Counters
    ) -> None:
        self.running: list[Request] = []
        self._n_parallel = n_parallel
        self._line = line
        self._counters = counters
        # The first for whom there was no room: it and who stands behind it wait for one to leave.
        self._full: tuple[float, int] | None = None
        self.use(context)

    def use(self, context: Context) -> None:
        """Compute in a context that knows nothing yet: all begin anew."""
        self.sequences = Sequences(context)
        self._n_ctx = context.n_ctx_seq
        self._bounded = not context.model.is_recurrent  # a state is as large as any other
        for request in self.running:
            request.sequence, request.n_past, request.behind = None, 0, None

    @property
    def n_free(self) -> int:
        """How many more could be computed."""
        return self._n_parallel - len(self.running)

    # -- in -----------------------------------------------------------------------------------

    def admit(self) -> None:
        """Give places and sequences to those who can have them."""
        while self.n_free:
            request = self._line.pop(self._fits)
            if request is None:
                break
            self.running.append(request)
        for request in [request for request in self.running if request.sequence is None]:
            if not self._computed_by_another(request):
                self._begin(request)

    def _fits(self, request: Request) -> bool:
        """Whether there is room beside those that would not be sent back for it."""
        if self._full is not None and request.rank >= self._full:
            return False
        texts = [other.tokens for other in self.running if other.rank < request.rank]
        if not texts or not self._bounded:
            return True
        texts.append(request.tokens)
        room = self._n_ctx - HEADROOM * len(texts)
        if sum(map(len, texts)) <= room or distinct_length(texts) <= room:
            return True
        self._full = request.rank
        return False

    def _computed_by_another(self, request: Request) -> bool:
        """Whether a running request will soon know more of the tokens than anyone does now."""
        if not self.sequences.can_share:
            return False
        if request.behind is not None:
            other, soon = request.behind
            if other.sequence is not None and other.n_past < soon:
                return True
            request.behind = None
        tokens, soon, first = request.tokens, 0, None
        for other in self.running:
            theirs = other.tokens
            if (
                other.sequence is None
                or other.answering
                or theirs[soon : soon + 1] != tokens[soon : soon + 1]
            ):
                continue
            length = min(common_length(theirs, tokens), len(tokens) - 1)
            if length > max(soon, other.n_past):
                first, soon = other, length
        if first is None or soon < WORTH_WAITING:
            return False
        if soon - self.sequences.known_prefix(tokens) < WORTH_WAITING:
            return False
        request.behind = (first, soon)
        return True

    def _begin(self, request: Request) -> None:
        generation = request.generation
        tokens = request.tokens
        if request.scoring:
            tokens = tokens[:1]  # nothing can be left out: all outputs are wanted
            generation.prompt_scores = []
        request.sequence, request.n_past = self.sequences.take(tokens)
        if request.begun:
            return  # it was sent back, and goes on
        request.begun = True
        generation.n_cached = request.n_past
        self._counters.prompt_tokens += len(generation.prompt)
        self._counters.cached_tokens += request.n_past
        generation.fit(self._n_ctx - len(generation.prompt))
        if generation.finish_reason is not None and not request.scoring:
            self.finish(request)

    # -- out ----------------------------------------------------------------------------------

    def leave(self, request: Request) -> None:
        """Take a request's place from it; the line is another matter."""
        if request in self.running:
            self.running.remove(request)
            self._line.free_place()
            self._full = None
        if request.sequence is not None:
            self.sequences.release(request.sequence)
            request.sequence = None

    def send_back(self, request: Request) -> None:
        """Let one wait again, with nothing left in the memory."""
        sequence = request.sequence
        self.leave(request)
        if sequence is not None:
            self.sequences.forget(sequence)
        request.n_past = 0
        self._full = request.rank
        self._counters.preempted += 1
        self._line.put_back(request)

    def finish(self, request: Request) -> None:
        """It has come to its end."""
        self._counters.finished += 1
        self.leave(request)
        request.deliver(None)

    def fail(self, request: Request, error: BaseException) -> None:
        """It cannot go on."""
        self._counters.failed += 1
        self.leave(request)
        request.deliver(error)
