"""Answering in chats: from arguments to a job. The front end that inherits it runs the job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamacffi.answer import Answer, parser_of
from llamacffi.arguments import (
    bias_of,
    check_tail_free,
    chosen_seed,
    combined,
    listed,
    reseeded,
    stops_of,
    wants_usage,
)
from llamacffi.chat_completion import ChatChoice, chat_completion_head
from llamacffi.chat_request import ChatRequest, spelled_tokens, tool_choice_of
from llamacffi.completing import Completing
from llamacffi.errors import ParameterError
from llamacffi.generation import Generation, check_fits
from llamacffi.job import Job
from llamacffi.sampling.params import SamplingParams
from llamacffi.sampling.structure import schema_of_response_format
from llamacffi.templates import Message, Template, Tool, choose_template
from llamacffi.templates.choice import TemplateChoice

__all__ = ["ChatCompleting"]


class ChatCompleting(Completing):
    """What answers in chats: a front end inherits it, and says how a job is run."""

    _chat_format: TemplateChoice = None
    _template: Template | None = None

    @property
    def template(self) -> Template:
        """The template that conversations are rendered with.

        Raises:
            TemplateError: The one that was asked for does not exist; or none was, and the model's
                file has none.
        """
        if self._template is None:
            self._template = choose_template(self.model.metadata, self._chat_format)
        return self._template

    def create_chat_completion(
        self,
        messages: Sequence[Message],
        functions: Sequence[Mapping[str, Any]] | None = None,
        function_call: str | Mapping[str, Any] | None = None,
        tools: Sequence[Tool] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        temperature: float = 0.2,
        top_p: float = 0.95,
        top_k: int = 40,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        stream: bool = False,
        stop: str | int | Sequence[str | int] | None = None,
        seed: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        logits_processor: Any = None,
        grammar: Any = None,
        logit_bias: Mapping[Any, float] | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        *,
        n: int = 1,
        parallel_tool_calls: bool = True,
        enable_thinking: bool = True,
        reasoning_budget: int | None = None,
        reasoning_budget_message: str = "",
        template_variables: Mapping[str, Any] | None = None,
        stream_options: Mapping[str, Any] | None = None,
        sampling: SamplingParams | None = None,
        min_tokens: int = 0,
        ignore_eos: bool = False,
    ) -> Any:
        """Answer in a conversation.

        Args:
            messages: OpenAI's: each with "role" and "content" (a text, or a list of text parts);
                "tool_calls", "tool_call_id" and "reasoning_content" where they apply. Contents
                never become control tokens.
            functions: The old name of `tools`, without {"type": "function"} around each.
            function_call: The old name of `tool_choice`.
            tools: OpenAI's descriptions of functions that the model may call. A template that has
                no way to offer tools gets one.
            tool_choice: "auto" (the default with tools), "none", "required", or
                `{"type": "function", "function": {"name": ...}}`. A call that is required, and the
                arguments of any call, are held to the tool's schema by a grammar.
            temperature: 0 for the most probable token each time.
            top_p: See `SamplingParams`, as for the other sampling arguments.
            top_k: See `SamplingParams`.
            min_p: See `SamplingParams`.
            typical_p: See `SamplingParams`.
            stream: Return an iterator over chunks instead of the whole.
            stop: Strings or token ids that end the answer; the earliest counts, and is left out.
            seed: Of the random numbers; None for the constructor's.
            response_format: OpenAI's: `{"type": "json_object"}`, or `{"type": "json_schema",
                "json_schema": {"schema": ...}}`.
            max_tokens: Most tokens to generate; None, 0 or less for as many as fit.
            presence_penalty: See `SamplingParams`.
            frequency_penalty: See `SamplingParams`.
            repeat_penalty: See `SamplingParams`.
            tfs_z: Must be 1: llama.cpp has no tail-free sampling any more.
            mirostat_mode: See `SamplingParams`.
            mirostat_tau: See `SamplingParams`.
            mirostat_eta: See `SamplingParams`.
            model: The model's name in the result.
            logits_processor: `(input_ids, scores)`, or a list of such; see `Sampler`.
            grammar: GBNF rules that the answer must follow: text, a path or a `Grammar`.
            logit_bias: Token id to a number added to its logit; False for never.
            logprobs: Report each token's log probability.
            top_logprobs: With logprobs, how many alternatives to report with each token.
            n: How many answers; each has its own seed, `seed` plus its index.
            parallel_tool_calls: Whether one answer may call several tools.
            enable_thinking: Let a model that can think do so.
            reasoning_budget: Most tokens to think; 0 for none, None for any number.
            reasoning_budget_message: What the thoughts end with when the budget is used up.
            template_variables: More variables for the template, such as
                {"reasoning_effort": "low"}.
            stream_options: OpenAI's: `{"include_usage": True}` for a last chunk with the usage.
            sampling: Sampling parameters, also those that have no argument here. An argument that
                is not at its default takes precedence.
            min_tokens: Least tokens to generate.
            ignore_eos: Never end before max_tokens of the model's own accord.

        Returns:
            A dictionary in OpenAI's shape: `choices[0]["message"]` with "content",
            "reasoning_content" and "tool_calls"; "finish_reason" is "stop", "length" or
            "tool_calls"; "usage" with the cached tokens of the prompt. Or an iterator of chunks
            with `choices[0]["delta"]`.

        Raises:
            TemplateError: No template, or one that cannot express the conversation.
            ContextFullError: The prompt does not fit.
            ParameterError: An argument out of its range.
            GrammarError: The grammar does not parse; SchemaError for a schema.
            CancelledError: The stream was superseded by another call, or cancelled.
            ClosedError: The model was closed.
        """
        check_tail_free(tfs_z)
        if n < 1:
            raise ParameterError(f"n={n}: choose 1 or more.")
        if top_logprobs and not logprobs:
            raise ParameterError(f"top_logprobs={top_logprobs} needs logprobs=True.")
        if functions is not None:
            tools = [{"type": "function", "function": function} for function in functions]
        tools = () if tools is None else tools
        request = ChatRequest(
            messages,
            tools,
            tool_choice_of(function_call if tool_choice is None else tool_choice, tools),
            parallel_tool_calls,
            schema_of_response_format(response_format),
            enable_thinking,
            reasoning_budget,
            reasoning_budget_message,
            template_variables or {},
        )
        vocab, context = self.model.vocab, self.context
        prompt = request.rendered(self.template, vocab)
        tokens = prompt.tokens(vocab)
        limit = max_tokens if max_tokens and max_tokens > 0 else context.n_ctx_seq
        check_fits(context, tokens, limit)  # now, not with the first piece of a stream
        params = combined(
            sampling,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            typical_p=typical_p,
            repeat_penalty=repeat_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            penalty_last_n=self._last_n if sampling is None else sampling.penalty_last_n,
            mirostat_mode=mirostat_mode,
            mirostat_tau=mirostat_tau,
            mirostat_eta=mirostat_eta,
            logit_bias=bias_of(logit_bias),
            grammar=getattr(grammar, "_grammar", grammar),  # llama-cpp-python's class
            processors=tuple(listed(logits_processor)),
            seed=chosen_seed(seed, sampling, self._seed),
        )
        params = request.held(prompt, params, vocab)
        parse = parser_of(self.template, prompt)
        choices = [
            ChatChoice(
                index,
                vocab,
                Generation(
                    vocab,
                    reseeded(params, index).chain(self.model),
                    tokens,
                    max_tokens=limit,
                    min_tokens=min_tokens,
                    stop=[*stops_of(stop), *prompt.stops],
                    ignore_eos=ignore_eos,
                    logprobs=(top_logprobs or 0) if logprobs else None,
                    spelled=spelled_tokens(prompt, vocab),
                ),
                Answer(parse, n_calls_max=None if parallel_tool_calls else 1),
                bool(logprobs),
            )
            for index in range(n)
        ]
        name = model or self.model_path
        job = Job(
            choices,
            chat_completion_head(name, "chat.completion"),
            chat_completion_head(name, "chat.completion.chunk"),
            with_usage=wants_usage(stream_options),
        )
        return self._do(job, stream)
