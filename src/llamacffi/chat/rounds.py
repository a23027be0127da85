"""How a chat session answers: rounds of answers and tool calls, and what stays of them."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

from llamacffi.answer import Answer, parser_of
from llamacffi.arguments import stops_of
from llamacffi.chat.ahead import CONTENT, beginning_of_turn, compute_ahead
from llamacffi.chat.answering import OutputTransform, Rendered, Round, run_seated
from llamacffi.chat.history import History
from llamacffi.chat.overflow import Overflow, shifts, system_length, turn_starts
from llamacffi.chat.seats import Seats
from llamacffi.chat.tools import Tools
from llamacffi.chat_request import ChatRequest, spelled_tokens, tool_choice_of
from llamacffi.context import Context
from llamacffi.errors import CancelledError, ClosedError, LlamaCffiError, ParameterError
from llamacffi.generation import Generation, Usage
from llamacffi.model import Model
from llamacffi.prefix import common_length
from llamacffi.sampling.params import SamplingParams
from llamacffi.sampling.structure import schema_of_response_format
from llamacffi.templates import Message, Prompt, Template
from llamacffi.templates.messages import checked_messages

__all__ = ["Options", "Rounds", "checked_number"]

_log = logging.getLogger("llamacffi.chat")


@dataclasses.dataclass(frozen=True)
class Options:
    """What may be asked for with one question; see `ChatSession.stream`."""

    max_tokens: int | None = None
    stop: Any = None
    response_format: Mapping[str, Any] | None = None
    tool_choice: Any = None
    sampling: SamplingParams | None = None


class Rounds(History):
    """What `ChatSession` inherits its answers from; the attributes are the session's."""

    context: Context
    model: Model
    template: Template
    sampling: SamplingParams
    usage: Usage
    finish_reason: str | None
    _seats: Seats
    _tools: Tools
    _overflow: Overflow
    _max_tokens: int | None
    _max_tool_rounds: int
    _enable_thinking: bool
    _reasoning_budget: int | None
    _variables: dict[str, Any]
    _history_transform: Callable[[list[dict[str, Any]]], Iterable[Message]] | None
    _output_transform: OutputTransform | None
    _on_reasoning: Callable[[str], object] | None
    _read_ahead: bool
    _n_again: int
    _running: Iterator[str] | None
    _closed: bool

    def _stream(self, added: list[dict[str, Any]] | None, options: Options) -> Iterator[str]:
        """Answer what is added, or the last user's message again; begins with the first piece."""
        self._end_stream()
        running = self._running = self._rounds(added, options)
        try:
            yield from running
            if self._running is not running:
                raise CancelledError(
                    "This stream was closed by a change of the history or another question. Read "
                    "it to its end first, or use a fork."
                )
        finally:
            if self._running is running:
                self._running = None

    def _end_stream(self) -> None:
        running, self._running = self._running, None
        if isinstance(running, Generator):
            try:
                running.close()
            except ValueError:  # it is what runs now
                self._running = running
                raise ParameterError(
                    "A tool, a transform or another thread wants to change a session while it "
                    "answers. Do it after the answer, or with a fork."
                ) from None

    def _rounds(self, added: list[dict[str, Any]] | None, options: Options) -> Iterator[str]:
        if self._closed:
            raise ClosedError("This session is closed. Make a new one with its messages.")
        before, window = self._messages, dataclasses.replace(self._window)
        if added is None:
            starts = turn_starts(before)
            if not starts:
                raise ParameterError("There is no user's message to answer again: ask something.")
            self._n_again += 1
            self._messages = before[: starts[-1] + 1]
            self._changed(len(self._messages))
        else:
            self._n_again = 0
            self._messages = [*before, *added]
        self.finish_reason = None
        asked = len(self._messages)
        try:
            for n_rounds in range(self._max_tool_rounds + 1):
                yield from self._answered(options, last=n_rounds == self._max_tool_rounds)
                calls = self._messages[-1].get("tool_calls") or ()
                n_calls = len(self._messages)
                try:
                    for message in self._tools.results(calls) if calls else ():
                        self._messages.append(message)
                except BaseException:  # Ctrl-C, most likely
                    results = self._messages[n_calls:]
                    self._messages += self._tools.missing(calls, results)
                    raise
                if len(self._messages) < n_calls + max(1, len(calls)):
                    if self._read_ahead and not calls:
                        self._compute_ahead(options)
                    return  # there are none, or the caller has to answer some
                options = dataclasses.replace(options, tool_choice=None)  # it was about the first
        except BaseException as end:
            failed = isinstance(end, Exception) and not isinstance(end, CancelledError)
            if failed or len(self._messages) == asked:
                self._messages, self._window = before, window
            raise

    def _answered(self, options: Options, last: bool) -> Iterator[str]:
        """One answer, which is in the history afterwards, also if it is left half-way."""
        answer = self._begin(options, last)
        failed = False
        try:
            yield from answer.pieces()
        except Exception as error:
            failed = not isinstance(error, CancelledError)
            raise
        finally:
            self.usage = answer.generation.usage
            self.finish_reason = answer.generation.finish_reason
            message = None if failed else answer.message()
            if message is not None:
                self._messages.append(message)

    def _compute_ahead(self, options: Options) -> None:
        seen = self._window.seen([*self._messages, {"role": "user", "content": CONTENT}])
        try:
            prompt = self._prompt(self._request(options, options.tool_choice), seen)
            compute_ahead(self._seats, self, beginning_of_turn(prompt, self.model.vocab))
        except LlamaCffiError as error:  # the answer is there: this was for the next one
            _log.info("the beginning of the next turn was not computed: %s", error)

    # -- from the history to tokens -----------------------------------------------------------

    def _begin(self, options: Options, last: bool) -> Round:
        vocab = self.model.vocab
        sampling = options.sampling or self.sampling
        if self._n_again and sampling.seed is not None:
            sampling = dataclasses.replace(sampling, seed=(sampling.seed + self._n_again) % 2**32)
        wanted = options.max_tokens or self._max_tokens
        room = self.context.n_ctx_seq
        reserve = min(wanted or room // 4, room // 2)
        may_call = not last and options.tool_choice != "none"
        request = self._request(options, "none" if last else options.tool_choice)

        def render(messages: list[dict[str, Any]]) -> Rendered:
            prompt = self._prompt(request, messages)
            return Rendered(prompt, prompt.tokens(vocab))

        found = self._window.fit(self._messages, render, room - reserve, self._overflow)
        prompt, seen = found.prompt, self._window.seen(self._messages)
        if self._tools.described and not may_call:
            # A model may call all the same: then that is no text to be shown.
            calling = self._prompt(self._request(options, "auto"), seen)
            prompt = dataclasses.replace(prompt, parser=calling.parser, spelled=calling.spelled)
        generation = Generation(
            vocab,
            request.held(prompt, sampling, vocab).chain(self.model),
            found.tokens,
            max_tokens=wanted or room,
            stop=[*stops_of(options.stop), *prompt.stops],
            spelled=spelled_tokens(prompt, vocab),
        )

        def n_keep() -> int:
            """What the prompt has in common with another one after the same system message."""
            system = seen[: system_length(seen)]
            other = render([*system, {"role": "user", "content": "?"}]).tokens if system else []
            return common_length(other, found.tokens)

        shifting = n_keep if self._overflow == "shift" and shifts(self.context) else None
        steps = run_seated(self._seats, self, generation, reserve, shifting)
        answer = Answer(parser_of(self.template, prompt))
        return Round(
            answer, generation, steps, self._output_transform, self._on_reasoning, may_call
        )

    def _prompt(self, request: ChatRequest, messages: list[dict[str, Any]]) -> Prompt:
        if self._history_transform is not None:
            messages = checked_messages(self._history_transform(copy.deepcopy(messages)))
        return dataclasses.replace(request, messages=messages).rendered(
            self.template, self.model.vocab
        )

    def _request(self, options: Options, choice: Any) -> ChatRequest:
        tools = self._tools.described
        return ChatRequest(
            (),
            tools,
            tool_choice_of(choice, tools),
            schema=schema_of_response_format(options.response_format),
            enable_thinking=self._enable_thinking,
            reasoning_budget=self._reasoning_budget,
            variables=self._variables,
        )


def checked_number(name: str, value: int | None, least: int) -> int | None:
    """A number that is None or large enough; refuses others with ParameterError."""
    if value is not None and (type(value) is not int or value < least):
        raise ParameterError(f"{name}={value!r}: choose {least} or more.")
    return value
