"""Any sequence of operations on chat sessions: the memory never lies."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from llamacffi import ChatSession, Model
from tests.sessions import session_on


def prompt_of(session: ChatSession) -> list[int]:
    """The tokens of the prompt for the last user's message."""
    messages = session.messages
    while messages[-1]["role"] != "user":
        messages.pop()
    return session.template.render(messages).tokens(session.model.vocab)


class Operations(RuleBasedStateMachine):
    """After whatever was done, the memory holds the prompt, and as much of it as can be."""

    model: Model

    @initialize(n_seq_max=st.sampled_from([1, 2]), unified=st.booleans())
    def begin(self, n_seq_max: int, unified: bool) -> None:
        self.context = self.model.context(
            n_ctx=1024 * n_seq_max, n_seq_max=n_seq_max, kv_unified=unified, n_threads=1
        )
        self.sessions = [session_on(self.context, max_tokens=3)]
        self.at = 0

    @property
    def session(self) -> ChatSession:
        return self.sessions[self.at % len(self.sessions)]

    def check(self) -> None:
        sequence = self.session._seats.sequence_of(self.session)
        assert sequence is not None
        held = self.context.memory.tokens(sequence)
        assert held[: len(prompt_of(self.session))] == prompt_of(self.session)
        assert len(held) == self.context.memory.position_max(sequence) + 1

    @rule(text=st.sampled_from(["a", "hello", "the time", "x" * 30]))
    def ask(self, text: str) -> None:
        self.session.ask(text)
        self.check()

    @rule()
    def regenerate(self) -> None:
        if "user" in [message["role"] for message in self.session.messages]:
            self.session.regenerate()
            self.check()
            assert self.session.usage.cached_tokens <= self.session.usage.prompt_tokens - 1

    @rule(n_pieces=st.integers(0, 2))
    def stream(self, n_pieces: int) -> None:
        stream = self.session.stream("go on")
        for _ in range(n_pieces):
            next(stream, None)
        stream.close()

    @rule(place=st.integers(-3, 3), text=st.sampled_from(["b", "hello", "Z" * 20]))
    def edit(self, place: int, text: str) -> None:
        if -len(self.session.messages) <= place < len(self.session.messages):
            self.session.edit(place, text)

    @rule(place=st.integers(-3, 3))
    def remove(self, place: int) -> None:
        if -len(self.session.messages) <= place < len(self.session.messages):
            self.session.remove(place)

    @rule(text=st.sampled_from([None, "s", "be kind"]))
    def set_system(self, text: str | None) -> None:
        self.session.system = text

    @rule()
    def rewind(self) -> None:
        self.session.rewind(min(1, [m["role"] for m in self.session.messages].count("user")))

    @precondition(lambda self: len(self.sessions) < 4)
    @rule()
    def fork(self) -> None:
        twin = self.session.fork()
        assert twin.messages == self.session.messages
        self.sessions.append(twin)

    @rule()
    def switch(self) -> None:
        self.at += 1

    @precondition(lambda self: len(self.sessions) > 1)
    @rule()
    def forget(self) -> None:
        del self.sessions[0]

    @rule()
    def clear_by_hand(self) -> None:
        self.context.memory.clear()

    def teardown(self) -> None:
        self.context.close()


def test_any_sequence_of_operations(tiny_falcon: Model) -> None:
    Operations.model = tiny_falcon
    run_state_machine_as_test(
        Operations,
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
