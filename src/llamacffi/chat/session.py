"""A chat session: the history is the truth, and the memory follows it."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from llamacffi.answer import Answer, parser_of
from llamacffi.arguments import stops_of
from llamacffi.chat.functions import call, tool_of
from llamacffi.chat.history import History
from llamacffi.chat.overflow import (
    Overflow,
    Window,
    check_overflow,
    follow,
    run_shifting,
    system_length,
    turn_starts,
)
from llamacffi.chat.seats import seats_of
from llamacffi.chat.session_file import (
    loaded_sampling,
    read_session,
    saved_sampling,
    saved_template,
    write_session,
)
from llamacffi.chat_request import ChatRequest, spelled_tokens, tool_choice_of
from llamacffi.context import Context
from llamacffi.errors import CancelledError, ParameterError, StateError
from llamacffi.generation import Generation, Step, Usage, run
from llamacffi.llama import Llama
from llamacffi.model import Model
from llamacffi.prompt_cache import PromptCache
from llamacffi.sampling.params import SamplingParams
from llamacffi.sampling.structure import schema_of_response_format
from llamacffi.templates import Message, Prompt, Template, choose_template
from llamacffi.templates.choice import TemplateChoice
from llamacffi.templates.messages import checked_messages

__all__ = ["ChatSession"]

N_CTX, N_SESSIONS = 4096, 4
CHECKPOINT_BYTES = 256 << 20

Tools = Sequence[Callable[..., Any] | Mapping[str, Any]]


class ChatSession(History):
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
            their place. The history keeps everything.
        max_tokens: Most tokens of an answer; None for as many as fit.
        max_tool_rounds: How often in a row tools are called before the model has to answer.
        messages: A history to begin with.
        n_ctx: Context length, if a context is made; 0 for the model's own.
        n_threads: Threads, if a context is made; None for one per physical core.
        enable_thinking: Let a model that can think do so.
        reasoning_budget: Most tokens to think; None for any number.
        template_variables: More variables for the template.
        history_transform: Gets the messages before they are rendered, and returns those that the
            model is to see.
        output_transform: Gets an iterator over the pieces of an answer, and returns one over
            those that are shown and remembered.
        on_reasoning: Gets the pieces of the model's thoughts as they come, which streams leave
            out.

    Attributes:
        usage: The tokens of the last answer.

    Raises:
        TemplateError: There is no such template, or none for this model.
        ContextInitError: No context could be made.
    """

    def __init__(
        self,
        model: Model | Context | Llama,
        *,
        system: str | None = None,
        template: TemplateChoice = None,
        sampling: SamplingParams | None = None,
        tools: Tools = (),
        overflow: Overflow = "drop",
        max_tokens: int | None = None,
        max_tool_rounds: int = 8,
        messages: Iterable[Message] = (),
        n_ctx: int = N_CTX,
        n_threads: int | None = None,
        enable_thinking: bool = True,
        reasoning_budget: int | None = None,
        template_variables: Mapping[str, Any] | None = None,
        history_transform: Callable[[list[dict[str, Any]]], Iterable[Message]] | None = None,
        output_transform: Callable[[Iterator[str]], Iterable[str]] | None = None,
        on_reasoning: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__(messages, system)
        self._choice = template
        self.sampling = sampling or SamplingParams()
        self._functions = {tool_of(f)["function"]["name"]: f for f in tools if callable(f)}
        self._tools = [tool_of(tool) if callable(tool) else dict(tool) for tool in tools]
        self._overflow = check_overflow(overflow)
        self._max_tokens = max_tokens
        self._max_tool_rounds = max_tool_rounds
        self._enable_thinking = enable_thinking
        self._reasoning_budget = reasoning_budget
        self._variables = dict(template_variables or {})
        self._history_transform = history_transform
        self._output_transform = output_transform
        self._on_reasoning = on_reasoning
        self._n_again = 0
        self.usage = Usage(0, 0)
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
                n_ctx=min(n_ctx, trained) if n_ctx else trained,
                n_seq_max=N_SESSIONS,
                kv_unified=True,
                n_threads=n_threads,
            )
        else:
            self.context = model.context if isinstance(model, Llama) else model
        self.model = self.context.model
        self._seats = seats_of(self.context)
        # A memory that cannot go back to any place gets places that it can go back to.
        self._checkpoints = self.model.is_recurrent or self.model.is_hybrid or self.model.n_swa > 0
        if self._checkpoints and self.context.prompt_cache is None:
            self.context.prompt_cache = PromptCache(CHECKPOINT_BYTES)

    # -- asking -----------------------------------------------------------------------------

    def ask(self, content: Any, **options: Any) -> str:
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

        What was said before the stream is closed, or stopped by an exception in your loop, stays
        in the history. If the answer fails, the history is as before.

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
            CancelledError: Another session took over this one's sequence, or the context was
                cancelled.
        """
        message = content if isinstance(content, Mapping) else {"role": "user", "content": content}
        checked = checked_messages([message])
        options = _Options(max_tokens, stop, response_format, tool_choice, sampling)
        return self._stream(checked, len(self._messages), options)

    def regenerate(self, **options: Any) -> str:
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
        starts = turn_starts(self._messages)
        if not starts:
            raise ParameterError("There is no user's message to answer again: ask something.")
        self._n_again += 1
        options = _Options(max_tokens, stop, response_format, tool_choice, sampling)
        return self._stream([], starts[-1] + 1, options)

    def _stream(self, added: list[dict[str, Any]], keep: int, options: _Options) -> Iterator[str]:
        before, window = self._messages, dataclasses.replace(self._window)
        self._messages = [*before[:keep], *added]
        try:
            for n_rounds in range(self._max_tool_rounds + 1):
                yield from self._transformed(options, last=n_rounds == self._max_tool_rounds)
                calls = self._messages[-1].get("tool_calls") or ()
                if not self._call(calls):
                    return
                options = dataclasses.replace(options, tool_choice=None)  # it was about the first
        except BaseException as end:
            stopped = isinstance(end, GeneratorExit | KeyboardInterrupt | CancelledError)
            if not stopped or self._messages[-1]["role"] == "user":
                self._messages, self._window = before, window
            raise

    def _transformed(self, options: _Options, last: bool) -> Iterator[str]:
        """One answer, which is in the history afterwards, also if it is left half-way."""
        answer, generation, steps = self._begin(options, last)
        shown: list[str] = []
        pieces = (self._content(answer.push(step.text)) for step in steps)
        done = False
        try:
            for piece in self._through(pieces):
                if piece:
                    shown.append(piece)
                    yield piece
            for piece in self._through(iter([self._content(answer.finish(_cut(generation)))])):
                if piece:
                    shown.append(piece)
                    yield piece
            done = True
        except (GeneratorExit, KeyboardInterrupt, CancelledError):
            done = bool(answer.text)  # what was shown stays
            raise
        finally:
            self.usage = generation.usage
            if done:
                message = answer.message(generation.finish_reason != "stop")
                if self._output_transform is not None:
                    message["content"] = "".join(shown) or message["content"]
                self._messages.append(message)

    def _content(self, delta: Mapping[str, Any]) -> str:
        thought = delta.get("reasoning_content")
        if thought and self._on_reasoning is not None:
            self._on_reasoning(thought)
        content: str = delta.get("content", "")
        return content

    def _through(self, pieces: Iterator[str]) -> Iterable[str]:
        return pieces if self._output_transform is None else self._output_transform(pieces)

    def _call(self, calls: Sequence[Mapping[str, Any]]) -> bool:
        """Call the functions that the model asked for; false if that is the caller's business."""
        named = [(one["id"], one["function"]) for one in calls]
        if not named or any(function["name"] not in self._functions for _, function in named):
            return False
        for identity, function in named:
            result = call(self._functions[function["name"]], function["arguments"])
            self._messages.append(
                {"role": "tool", "tool_call_id": identity, "name": function["name"],
                 "content": result}
            )  # fmt: skip
        return True

    # -- from the history to tokens -----------------------------------------------------------

    def _begin(self, options: _Options, last: bool) -> tuple[Answer, Generation, Iterator[Step]]:
        sampling = options.sampling or self.sampling
        if self._n_again and sampling.seed is not None:
            sampling = dataclasses.replace(sampling, seed=(sampling.seed + self._n_again) % 2**32)
        wanted = options.max_tokens or self._max_tokens
        room = self.context.n_ctx_seq
        reserve = min(wanted or room // 4, room // 2)
        request = self._request(options, last)

        def rendered(messages: list[dict[str, Any]]) -> Prompt:
            if self._history_transform is not None:
                messages = checked_messages(self._history_transform(copy.deepcopy(messages)))
            return dataclasses.replace(request, messages=messages).rendered(
                self.template, self.model.vocab
            )

        def size(messages: list[dict[str, Any]]) -> int:
            return len(rendered(messages).tokens(self.model.vocab))

        self._window.fit(self._messages, size, room - reserve, self._overflow)
        prompt = rendered(self._window.seen(self._messages))
        generation = Generation(
            self.model.vocab,
            request.held(prompt, sampling, self.model.vocab).chain(self.model),
            prompt.tokens(self.model.vocab),
            max_tokens=wanted or room,
            stop=[*stops_of(options.stop), *prompt.stops],
            spelled=spelled_tokens(prompt, self.model.vocab),
        )
        answer = Answer(parser_of(self.template, prompt))
        return answer, generation, self._steps(generation, reserve, size)

    def _request(self, options: _Options, last: bool) -> ChatRequest:
        choice = "none" if last and self._functions else options.tool_choice
        return ChatRequest(
            (),
            self._tools,
            tool_choice_of(choice, self._tools),
            schema=schema_of_response_format(options.response_format),
            enable_thinking=self._enable_thinking,
            reasoning_budget=self._reasoning_budget,
            variables=self._variables,
        )

    def _steps(
        self,
        generation: Generation,
        reserve: int,
        size: Callable[[list[dict[str, Any]]], int],
    ) -> Iterator[Step]:
        shifting = self._overflow == "shift" and self.context.memory.can_shift
        with self._seats.lock:
            sequence = self._seats.take(self, len(generation.prompt) + reserve)
            if shifting:
                follow(self.context, sequence, generation.prompt)
                system = self._messages[: system_length(self._messages)]
                n_keep = size(system) if system else 0
                steps = run_shifting(self.context, generation, sequence, n_keep)
            else:
                steps = run(self.context, generation, sequence)
        first = True
        while True:
            # Between a decode and the sampling from it, no other session may decode.
            with self._seats.lock:
                if self._seats.sequence_of(self) != sequence:
                    raise CancelledError(
                        "Another session took over this one's sequence while it was answering. "
                        "Read a stream to its end first, or use a context with a larger n_seq_max."
                    )
                step = next(steps, None)
                if first and self._checkpoints and self.context.prompt_cache is not None:
                    self.context.prompt_cache.remember(self.context, sequence)
                first = False
            if step is None:
                return
            yield step

    # -- copies, files, end --------------------------------------------------------------------

    def fork(self) -> ChatSession:
        """A second session with the same history, settings and memory, going its own way.

        The memory is shared or copied, not computed again.
        """
        twin = copy.copy(self)
        twin._messages = copy.deepcopy(self._messages)
        twin._window = dataclasses.replace(self._window)
        with self._seats.lock:
            self._seats.copy(self, twin)
        return twin

    def save(self, path: str | os.PathLike[str], memory: bool = True) -> None:
        """Save the history, the sampling and the template to a file; nothing is lost if it fails.

        Args:
            path: The file; a previous one is replaced at the end.
            memory: Also save what the memory holds, so that nothing has to be computed again.
                It takes as much as the context does for these tokens.

        Raises:
            OSError: The file could not be written.
            ParameterError: The sampling parameters hold what no file can: a grammar or schema,
                processors; or the template or the overflow policy is an object of yours.
        """
        header = {
            "model": self.model.path.name,
            "fingerprint": self.model.fingerprint,
            "messages": self._messages,
            "template": saved_template(self._choice, self.template),
            "sampling": saved_sampling(self.sampling),
            "overflow": self._overflow if isinstance(self._overflow, str) else None,
            "window": dataclasses.asdict(self._window),
            "settings": {
                "max_tokens": self._max_tokens,
                "max_tool_rounds": self._max_tool_rounds,
                "enable_thinking": self._enable_thinking,
                "reasoning_budget": self._reasoning_budget,
                "template_variables": self._variables,
            },
        }
        with self._seats.lock:
            state = self._seats.state_of(self) if memory else None
            write_session(path, header, state)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model: Model | Context | Llama, **settings: Any
    ) -> ChatSession:
        """Go on with a saved session.

        Args:
            path: The file.
            model: The model that it was saved with, or a context or `Llama` of it.
            **settings: Arguments of the constructor that replace what was saved, or that cannot
                be saved: tools, transforms, an overflow callable.

        Raises:
            OSError: The file could not be read.
            StateError: It is no session, damaged, or was saved with another model.
        """
        header, state = read_session(path)
        found = model.model if isinstance(model, Llama | Context) else model
        if header.get("fingerprint") != found.fingerprint:
            raise StateError(
                f"{path} was saved with the model {header.get('model')!r}; this is {found}. Load "
                "it with that one."
            )
        try:
            saved = {
                "sampling": loaded_sampling(header["sampling"]),
                "template": header["template"],
                "overflow": header["overflow"] or "drop",
                **header["settings"],
            }
            messages = checked_messages(header["messages"]) if header["messages"] else []
            window = Window(**header["window"])
            session = cls(model, **{**saved, **settings})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"{path} makes no sense: {error!r}. Save it again.") from None
        session._messages, session._window = messages, window
        if state is not None:
            session.context.check_state(state, 0)
            session._seats.keep(session, state)
        return session

    def close(self) -> None:
        """Give up the sequence; the context is closed with the last session, if one made it."""
        with self._seats.lock:
            self._seats.leave(self)
            if self._owns_context and self._seats.empty:
                self.context.close()

    def __enter__(self) -> ChatSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ChatSession({self.model!r}, {len(self._messages)} messages)"


@dataclasses.dataclass(frozen=True)
class _Options:
    max_tokens: int | None = None
    stop: Any = None
    response_format: Mapping[str, Any] | None = None
    tool_choice: Any = None
    sampling: SamplingParams | None = None


def _cut(generation: Generation) -> bool:
    return generation.finish_reason == "length"
