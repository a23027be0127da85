"""A chat session: the history is the truth, and the memory follows it."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from llamacffi.chat.history import copied
from llamacffi.chat.overflow import Overflow, check_overflow, turn_starts
from llamacffi.chat.rounds import Options, Rounds, checked_number
from llamacffi.chat.seats import seats_of
from llamacffi.chat.session_file import Saved, described_session, read_session, write_session
from llamacffi.chat.tools import Tools
from llamacffi.context import Context
from llamacffi.errors import ParameterError
from llamacffi.generation import Usage
from llamacffi.llama import Llama
from llamacffi.model import Model
from llamacffi.sampling.params import SamplingParams
from llamacffi.templates import Message, Template, choose_template
from llamacffi.templates.choice import TemplateChoice

__all__ = ["ChatSession"]

N_CTX, N_SESSIONS = 4096, 4


class ChatSession(Rounds):
    """A conversation with a model.

    The history is what counts: change it as you like, and the next answer is computed from it,
    with what the memory still holds of it not computed again. Several sessions may share a
    context; each keeps its memory. A session is for one thread at a time.

    Args:
        model: A model, for which a context is made; or a context or a `Llama` to share.
        system: The system message.
        template: How conversations are rendered: a registered name, Jinja text, a file of such,
            or a `Template`. None for a plugin's that matches the model, else the model's own.
        sampling: How tokens are picked; see `SamplingParams`.
        tools: What the model may call: Python functions, which are called and whose results it
            then sees; or OpenAI's descriptions of tools, whose calls end the answer.
        overflow: What happens when the conversation outgrows the context. "drop": the model no
            longer sees the oldest turns, but always the system message. "shift": the same, but
            the memory is shifted instead of computed again, also in mid-answer. "raise": an
            error. Or a callable, which gets the dropped messages and returns a summary that takes
            their place. The history keeps everything. Room for an answer is kept free:
            max_tokens, or a quarter of the context, but never more than half of it.
        max_tokens: Most tokens of an answer; None for as many as fit.
        max_tool_rounds: How often in a row tools are called before the model has to answer
            without them.
        messages: A history to begin with.
        n_ctx: Context length, if a context is made; 0 for the model's own, "auto" for what fits.
        n_threads: Threads, if a context is made; None for one per physical core.
        enable_thinking: Let a model that can think do so.
        reasoning_budget: Most tokens to think; -1 or None for any number.
        template_variables: More variables for the template.
        history_transform: Gets the messages before they are rendered, and returns those that the
            model is to see. It may be called several times for one answer.
        output_transform: Gets an iterator over the pieces of an answer, and returns one over
            those that are shown and remembered.
        on_reasoning: Gets the pieces of the model's thoughts as they come, which streams leave
            out.
        read_ahead: After an answer, compute what comes before the user's next words, while they are
            written. The next answer begins sooner; the last piece of an answer is followed by the
            end of its stream some milliseconds later.

    Attributes:
        usage: The tokens of the last answer.
        finish_reason: Why the last answer ended: "stop", "length", or None if it was stopped.

    Raises:
        TemplateError: There is no such template, or none for this model; or a message is none.
        ParameterError: A tool, a policy or a number that makes no sense.
        ContextInitError: No context could be made.
    """

    def __init__(
        self,
        model: Model | Context | Llama,
        *,
        system: str | None = None,
        template: TemplateChoice = None,
        sampling: SamplingParams | None = None,
        tools: Sequence[Callable[..., Any] | Mapping[str, Any]] = (),
        overflow: Overflow = "drop",
        max_tokens: int | None = None,
        max_tool_rounds: int = 8,
        messages: Iterable[Message] = (),
        n_ctx: int | str = N_CTX,
        n_threads: int | None = None,
        enable_thinking: bool = True,
        reasoning_budget: int | None = None,
        template_variables: Mapping[str, Any] | None = None,
        history_transform: Callable[[list[dict[str, Any]]], Iterable[Message]] | None = None,
        output_transform: Callable[[Iterator[str]], Iterable[str]] | None = None,
        on_reasoning: Callable[[str], object] | None = None,
        read_ahead: bool = False,
    ) -> None:
        super().__init__(messages, system)
        self._choice = template
        self.sampling = sampling or SamplingParams()
        self._tools = Tools(tools)
        self._overflow = check_overflow(overflow)
        self._max_tokens = checked_number("max_tokens", max_tokens, 1)
        self._max_tool_rounds = checked_number("max_tool_rounds", max_tool_rounds, 0) or 0
        self._enable_thinking = enable_thinking
        self._reasoning_budget = checked_number("reasoning_budget", reasoning_budget, -1)
        self._variables = dict(template_variables or {})
        self._history_transform = history_transform
        self._output_transform = output_transform
        self._on_reasoning = on_reasoning
        self._read_ahead = read_ahead
        self._n_again = 0
        self._running: Iterator[str] | None = None
        self._closed = False
        self.usage = Usage(0, 0)
        self.finish_reason: str | None = None
        source = model.model if isinstance(model, Llama | Context) else model
        if isinstance(model, Llama) and template is None:
            self.template: Template = model.template
        else:
            self.template = choose_template(source.metadata, template)
        self._owns_context = isinstance(model, Model)
        if isinstance(model, Model):
            trained = model.n_ctx_train or n_ctx
            self.context = Context(
                model,
                n_ctx=n_ctx if isinstance(n_ctx, str) else min(n_ctx or trained, trained),
                n_seq_max=N_SESSIONS,
                kv_unified=True,
                n_threads=n_threads,
            )
        else:
            self.context = model.context if isinstance(model, Llama) else model
        self.model = self.context.model
        self._seats = seats_of(self.context)
        self._seats.members.add(self)
        if isinstance(model, Llama):
            self._seats.turn = model._turn

    # -- asking -----------------------------------------------------------------------------

    def ask(self, /, content: Any, **options: Any) -> str:
        """Say something, and wait for the answer; see `stream`.

        Returns:
            The answer's text; `messages[-1]` is all of it.
        """
        return "".join(self.stream(content, **options))

    def stream(
        self,
        content: Any,
        *,
        max_tokens: int | None = None,
        stop: str | int | Sequence[str | int] | None = None,
        response_format: Mapping[str, Any] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        sampling: SamplingParams | None = None,
    ) -> Iterator[str]:
        """Say something, and get the answer piece by piece.

        What was shown before the stream is closed, or stopped by Ctrl-C or `context.cancel`, stays
        in the history, but for calls of tools in it. If nothing was shown, or if the answer fails,
        the history is as before. Changing the history, or asking something else, closes a stream
        that is still being read.

        Args:
            content: The user's message: a text, a list of text parts, or a whole message.
            max_tokens: Most tokens of the answer; None for the session's.
            stop: Strings or token ids that end the answer.
            response_format: OpenAI's, as in `Llama.create_chat_completion`.
            tool_choice: OpenAI's, as in `Llama.create_chat_completion`.
            sampling: How tokens are picked; None for the session's way.

        Raises:
            TemplateError: The template cannot express the conversation.
            ContextFullError: The conversation does not fit, by the overflow policy.
            CancelledError: The context was cancelled, or the stream was closed by a change of the
                history.
            ClosedError: The session or its context is closed.
            ParameterError: An argument that makes no sense, or what a transform gave.
        """
        message = content if isinstance(content, Mapping) else {"role": "user", "content": content}
        added = copied([message])
        checked_number("max_tokens", max_tokens, 1)
        options = Options(max_tokens, stop, response_format, tool_choice, sampling)
        return self._stream(added, options)

    def regenerate(self, /, **options: Any) -> str:
        """Answer the last user's message again, with other random numbers; see `stream`."""
        return "".join(self.stream_again(**options))

    def stream_again(
        self,
        *,
        max_tokens: int | None = None,
        stop: str | int | Sequence[str | int] | None = None,
        response_format: Mapping[str, Any] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        sampling: SamplingParams | None = None,
    ) -> Iterator[str]:
        """As regenerate, piece by piece.

        Raises:
            ParameterError: There is nothing to answer.
        """
        if not turn_starts(self._messages):
            raise ParameterError("There is no user's message to answer again: ask something.")
        checked_number("max_tokens", max_tokens, 1)
        options = Options(max_tokens, stop, response_format, tool_choice, sampling)
        return self._stream(None, options)

    # -- copies, files, end --------------------------------------------------------------------

    def fork(self) -> ChatSession:
        """A second session with the same history, settings and memory, going its own way.

        The memory is shared or copied, not computed again.
        """
        twin = copy.copy(self)
        twin._messages = copy.deepcopy(self._messages)
        twin._window = dataclasses.replace(self._window)
        twin._running = None
        with self._seats.lock:
            self._seats.copy(self, twin, share=self._overflow != "shift")
            self._seats.members.add(twin)
        return twin

    def save(self, path: str | os.PathLike[str], memory: bool = True) -> None:
        """Save the history, the sampling and the template to a file; nothing is lost if it fails.

        Args:
            path: The file; a previous one is replaced at the end.
            memory: Also save what the memory holds, so that nothing has to be computed again.
                It takes as much as the context does for these tokens.

        Raises:
            OSError: The file could not be written.
            ParameterError: The sampling parameters or the messages hold what no file can, such as
                processors.
        """
        described = described_session(
            self.model,
            messages=self._messages,
            window=self._window,
            sampling=self.sampling,
            template=(self._choice, self.template),
            tools=self._tools,
            overflow=self._overflow,
            transforms={
                "history_transform": self._history_transform,
                "output_transform": self._output_transform,
            },
            settings={
                "max_tokens": self._max_tokens,
                "max_tool_rounds": self._max_tool_rounds,
                "enable_thinking": self._enable_thinking,
                "reasoning_budget": self._reasoning_budget,
                "template_variables": self._variables,
            },
        )
        with self._seats.lock:
            state = self._seats.state_of(self) if memory and not self._closed else None
            write_session(path, described, state)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model: Model | Context | Llama, **settings: Any
    ) -> ChatSession:
        """Go on with a saved session.

        A memory that does not fit the context is computed again, and the log says why.

        Args:
            path: The file.
            model: The model that it was saved with, or a context or `Llama` of it.
            **settings: Arguments of the constructor that replace what was saved, or that could not
                be saved: functions as tools, transforms, an overflow callable, a template object.

        Raises:
            OSError: The file could not be read.
            StateError: It is no session, damaged, or was saved with another model.
            ParameterError: Something that could not be saved is missing in the settings.
        """
        saved: Saved = read_session(path)
        found = model.model if isinstance(model, Llama | Context) else model
        saved.check(found, settings)
        session = cls(model, **{**saved.settings, **settings})
        if "messages" not in settings:
            session._messages, session._window = saved.messages, saved.window
            if settings.get("system") is not None:
                session.system = settings["system"]
        if saved.state is not None:
            with session._seats.lock:
                session._seats.keep_if_usable(session, saved.state)
        return session

    def close(self) -> None:
        """Give up the sequence; the context is closed with the last session, if one made it."""
        self._end_stream()
        self._closed = True
        with self._seats.lock:
            self._seats.leave(self)
            if self._owns_context and not self._seats.members:
                self.context.close()

    def __enter__(self) -> ChatSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ChatSession({self.model!r}, {len(self._messages)} messages)"
