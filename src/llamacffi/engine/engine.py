"""The engine's front: what `Llama` does for one caller, for many at once."""

from __future__ import annotations

import copy
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llamacffi.chat_completing import ChatCompleting
from llamacffi.context import Context
from llamacffi.context_params import ContextParams
from llamacffi.embedding import Embedder
from llamacffi.embedding_front import ContextSizes, Embedding
from llamacffi.engine.async_delivery import PostOffice
from llamacffi.engine.branch import Branch
from llamacffi.engine.delivery import Reading, job_pieces, job_result
from llamacffi.engine.line import WaitingLine
from llamacffi.engine.loop import Loop
from llamacffi.engine.request import DEFAULT_OPTIONS, Recipient, Request
from llamacffi.engine.stats import EngineStats
from llamacffi.engine.steps import SCORED_ROWS
from llamacffi.engine.vectors import VectorDesk
from llamacffi.errors import (
    ClosedError,
    ContextFullError,
    ForkedError,
    ParameterError,
    UnsupportedError,
)
from llamacffi.fitting import MARGIN, N_CTX_MIN, Fit
from llamacffi.generation import Generation
from llamacffi.job import Job
from llamacffi.model import Model
from llamacffi.sampling.seeds import RANDOM_SEED
from llamacffi.templates.choice import TemplateChoice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

__all__ = ["Engine", "planned_fit"]

# llama.cpp's limit is 256; each place has two sequences.
MOST_PARALLEL = 128
DEFAULT_CONTEXT = 8192
CLOSING_SECONDS = 0.01  # how often closing looks whether all is finished


class Engine(ChatCompleting, Embedding):
    """Computes the requests of many callers together, one token of each at a time.

    Its methods may be called from any number of threads; `AsyncEngine` is the same for asyncio.
    `create_completion`, `create_chat_completion`, `embed`, `create_embedding` and `rerank` take the
    arguments of Llama's. Texts of several callers are embedded in one decode, in a context of their
    own, which is made when the first one comes. A model that only makes embeddings has just that.

    Requests that begin with the same tokens share them: they are computed once, and kept until
    their room is needed. A request that fails ends alone. When the memory is full, the last one is
    sent back into the line and goes on later; its stream only pauses.

    Args:
        model: The model. The engine does not own it: close the engine first, then the model.
        n_parallel: Most requests that are computed at a time; 1 to 128.
        n_ctx: Tokens in the memory, all requests together; one alone may use all. None for what
            the model was trained for, 8192 at most; "auto" for as much as the free memory has
            room for.
        n_queue_max: Most requests that wait for a place; above that, `BusyError`.
        step_seconds: How long a step may take while answers are being generated: long prompts are
            computed in pieces of this length.
        n_batch: Most tokens in one decode.
        n_ubatch: Most tokens computed at once.
        n_threads: Threads for generation; None for one per physical core.
        n_threads_batch: Threads for prompts; None for n_threads.
        seed: Of the random numbers, where a request gives none.
        chat_format: The template for conversations; see `Llama`.
        pooling: How a text's embeddings are joined; see `Context`. Needed to embed with a model
            whose file does not say it.
        flash_attention: See `Context`, as for the following.
        type_k: See `Context`.
        type_v: See `Context`.
        swa_full: See `Context`.
        offload_kqv: See `Context`.
        n_ctx_min: See `Context`.
        fit_margin: See `Context`.

    Raises:
        ParameterError: An argument out of its range.
        UnsupportedError: The model has an encoder and a decoder: `Llama` can run it.
        ContextInitError: The context does not fit.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_parallel: int = 8,
        n_ctx: int | str | None = None,
        n_queue_max: int = 1024,
        step_seconds: float = 0.25,
        n_batch: int = 2048,
        n_ubatch: int = 512,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        seed: int = RANDOM_SEED,
        chat_format: TemplateChoice = None,
        pooling: str = "unspecified",
        flash_attention: str = "auto",
        type_k: str = "f16",
        type_v: str = "f16",
        swa_full: bool = False,
        offload_kqv: bool = True,
        n_ctx_min: int = N_CTX_MIN,
        fit_margin: int = MARGIN,
    ) -> None:
        if not 1 <= n_parallel <= MOST_PARALLEL:
            raise ParameterError(f"n_parallel={n_parallel}: choose 1 to {MOST_PARALLEL}.")
        if n_queue_max < 1:
            raise ParameterError(f"n_queue_max={n_queue_max}: choose 1 or more.")
        if not step_seconds > 0:
            raise ParameterError(f"step_seconds={step_seconds}: choose a number above 0.")
        if model.has_encoder and model.has_decoder:
            raise UnsupportedError(
                f"{model} has an encoder, which works on one text at a time. Use Llama."
            )
        # Wakes the event loops of those who wait; for `AsyncEngine`.
        self.post = PostOffice()
        self.model = model
        self.model_path = str(model.path)
        self.n_parallel = n_parallel
        self._seed = seed
        self._chat_format = chat_format
        self._options = DEFAULT_OPTIONS
        self._pid = os.getpid()
        self._line = WaitingLine(n_queue_max, n_parallel)
        n_ctx = min(model.n_ctx_train, DEFAULT_CONTEXT) if n_ctx is None else n_ctx
        recurrent = model.is_recurrent or model.is_hybrid

        shared: dict[str, Any] = {
            "n_threads": n_threads,
            "n_threads_batch": n_threads_batch,
            "kv_unified": True,  # so that sequences can share cells
            "n_ctx_min": n_ctx_min,
            "fit_margin": fit_margin,
            "flash_attention": flash_attention,
            "type_k": type_k,
            "type_v": type_v,
            "swa_full": swa_full,
            "offload_kqv": offload_kqv,
        }

        def make_context() -> Context:
            context = Context(
                model,
                n_ctx=n_ctx,
                n_batch=max(n_batch, n_parallel),
                n_ubatch=n_ubatch,
                # Some are left to remember what is over. A recurrent state each would be dear.
                n_seq_max=n_parallel + 1 if recurrent else 2 * n_parallel,
                n_outputs_max=n_parallel + SCORED_ROWS,
                **shared,
            )
            if context.generates:
                return context
            context.close()
            return make_vector_context()

        def make_vector_context() -> Context:
            sizes = ContextSizes.for_embedding(model, n_ctx, n_batch, n_ubatch)
            return Context(model, **vars(sizes), embeddings=True, pooling=pooling, **shared)

        self._loop = Loop(make_context, n_parallel, self._line, step_seconds, self.post.flush)
        loop = self._loop
        # Without a word from either, a context for vectors would be memory for nothing.
        self._embeds = (
            pooling != "unspecified"
            or f"{model.architecture}.pooling_type" in model.metadata
            or not loop.context.generates
        )
        self._vectors = VectorDesk(
            make_vector_context if loop.context.generates else lambda: loop.context, loop
        )
        # Not a method: it must not keep the engine alive. Runs at exit, too.
        self._finalizer = weakref.finalize(self, _drop, self._loop)

    # -- requests -----------------------------------------------------------------------------

    def with_options(
        self,
        *,
        priority: int | None = None,
        timeout: float | None = None,
        n_prompt_max: int | None = None,
    ) -> Self:
        """The same engine with options for the requests that are made through it.

        Args:
            priority: Those with a higher one are served first; 0 is usual. Who waits for ten
                seconds counts as one higher, so that nobody waits forever. None leaves it.
            timeout: Seconds until a request must be over, or it ends with `DeadlineError`. None
                leaves it.
            n_prompt_max: Most tokens of a prompt; longer ones are refused with `ContextFullError`.
                None leaves it.
        """
        view = copy.copy(self)
        view._whole = self._whole or self  # the engine lives as long as a view of it
        if priority is not None:
            view._options = replace(view._options, priority=priority)
        if timeout is not None:
            view._options = replace(view._options, timeout=timeout)
        if n_prompt_max is not None:
            view._options = replace(view._options, n_prompt_max=n_prompt_max)
        return view

    _whole: Engine | None = None

    def submit(self, generations: Sequence[Generation], recipient: Recipient) -> list[Request]:
        """Have generations computed; returns at once. For front ends; others use create_....

        Args:
            generations: What is to be computed.
            recipient: Who gets the steps; called in the engine's thread.

        Raises:
            BusyError: More would wait than may; none of them was taken.
            ClosedError: The engine was closed.
            UnsupportedError: The model only makes embeddings.
        """
        self._check_open()
        if not self._loop.context.generates:
            raise UnsupportedError(f"{self.model} makes embeddings, not text. Use embed.")
        most = self._options.n_prompt_max
        for generation in generations:
            if most is not None and len(generation.prompt) > most:
                raise ContextFullError(
                    f"The prompt has {len(generation.prompt)} tokens; {most} are allowed. Shorten "
                    "it."
                )
            generation.begin()
        requests = [
            Request(generation, self._options, recipient, index)
            for index, generation in enumerate(generations)
        ]
        self._line.add(requests)
        self._loop.wake()
        if self._loop.stopped is not None:
            raise self._loop.refusal()
        return requests

    def cancel(self, requests: Sequence[Request]) -> None:
        """Drop requests; their places are free before the next step."""
        self._loop.cancel(requests)

    def check_room(self) -> None:
        """Whether one more may wait.

        Raises:
            BusyError: So many wait already as may.
            ClosedError: The engine was closed.
        """
        self._check_open()
        self._line.check_room(1)

    def branch(self, text: str | Sequence[int] = "") -> Branch:
        """A text that can grow, go back and divide; see `Branch`.

        Args:
            text: What it begins with: text, in which control tokens may be spelled out, or tokens.
        """
        branch = Branch(self)
        return branch.feed(text) if text else branch

    def _do(self, job: Job, stream: bool) -> Any:
        reading = Reading(self, [choice.generation for choice in job.choices])
        return job_pieces(job, reading) if stream else job_result(job, reading)

    def _embedder(self) -> Embedder:
        self._check_open()
        if not self._embeds:
            raise UnsupportedError(
                f"{self.model} was made to generate text. To embed with it, choose how: "
                "Engine(model, pooling='mean'), or 'last', 'cls', 'rank' or 'none'."
            )
        return self._vectors.embedder

    def _run_packs(self, texts: list[list[int]]) -> list[NDArray[np.float32]]:
        self.check_waiting()
        return self._vectors.run(texts, self._options.timeout)

    def check_waiting(self) -> None:
        """Whether this thread may wait for the engine.

        Raises:
            UnsupportedError: It is the engine's own, in a callback: it would wait for itself.
            ForkedError: This process is a fork of the engine's.
        """
        if threading.current_thread() is self._loop.thread:  # identifiers are used again
            raise UnsupportedError(
                "A logits processor, a stopping criterion or another callback of this engine's "
                "requests waits for the engine, which waits for the callback. Call it from a "
                "thread of your own."
            )
        self._check_process()

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ForkedError("This engine belongs to the parent process; make one in the child.")

    def _check_open(self) -> None:
        self._check_process()
        if self.closed:
            if self._loop.stopped is not None:
                raise self._loop.refusal()
            raise ClosedError("This engine is closing.")

    # -- facts and lifetime -------------------------------------------------------------------

    @property
    def context(self) -> Context:
        """The context that everything is decoded in; only the engine's thread may use it.

        Raises:
            ForkedError: This process is a fork of the engine's. Its thread may have held any lock.
        """
        self._check_process()
        return self._loop.context

    @property
    def n_ctx(self) -> int:
        """Tokens in the memory, all requests together."""
        return self._loop.context.n_ctx_seq

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests."""
        return self._loop.closing or self._loop.stopped is not None

    def stats(self) -> EngineStats:
        """What it is doing, and has done; callable at any time."""
        return EngineStats(
            n_parallel=self.n_parallel,
            n_running=self._loop.n_running,
            n_waiting=len(self._line),
            n_queue_max=self._line.n_max,
            n_ctx=self.n_ctx,
            n_remembered=self._loop.n_remembered,
            n_idle_sequences=self._loop.n_idle_sequences,
            totals=replace(self._loop.counters, requests=self._line.n_added),
        )

    def close(self, timeout: float | None = 0.0) -> None:
        """Take no more requests and free the context; the model stays. Safe to call twice.

        Args:
            timeout: Seconds that requests which are running or waiting have to be finished, before
                they end with `ClosedError`; None for as long as it takes.

        Raises:
            UnsupportedError: A callback of one of its requests called it.
        """
        forked = self._pid != os.getpid()
        if not forked:
            self.check_waiting()
        self._loop.closing = True
        if not forked:
            until = None if timeout is None else time.monotonic() + timeout
            while (self._loop.busy or self._vectors.busy) and (
                until is None or time.monotonic() < until
            ):
                time.sleep(CLOSING_SECONDS)
            self._loop.stop("The engine was closed.")
            self._loop.join()
        self._finalizer.detach()
        self._vectors.close()
        self._loop.context.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Engine({self.model!r}, n_parallel={self.n_parallel})"


def planned_fit(options: Mapping[str, Any]) -> Fit:
    """What a model leaves room for, from which an Engine with these arguments will be made."""
    names = (
        "n_batch",
        "n_ubatch",
        "flash_attention",
        "type_k",
        "type_v",
        "swa_full",
        "offload_kqv",
    )
    given = {name: options[name] for name in names if name in options}
    n_ctx = options.get("n_ctx")
    context = ContextParams(
        n_ctx=DEFAULT_CONTEXT if n_ctx is None else n_ctx,
        n_seq_max=2 * options.get("n_parallel", 8),
        kv_unified=True,
        **given,
    )
    return Fit(context, options.get("fit_margin", MARGIN), options.get("n_ctx_min", N_CTX_MIN))


def _drop(loop: Loop) -> None:
    """The engine was forgotten, or the interpreter ends."""
    loop.stop("The engine was dropped, or the interpreter ended.")
    # In the middle of a program, the garbage collector found it: in any thread, also in the loop's.
    if not threading.main_thread().is_alive():
        loop.join()
