"""What is measured, on which subjects, and which goals it is held against."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import prompts

OURS = "llamacffi"
PEER = "llama-cpp-python"
UPSTREAM = "llama-bench"
LLAMA_SERVER = "llama-server"


@dataclass(frozen=True)
class Goal:
    """A limit for our value, or for the ratio of our value to another subject's.

    Attributes:
        limit: The number.
        at_least: Whether it is a lower limit; else an upper one.
        against: The subject to divide by; None for the value itself.
    """

    limit: float
    at_least: bool
    against: str | None = None

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def describe(self, unit: str) -> str:
        sign = "≥" if self.at_least else "≤"
        if self.against is None:
            return f"{sign} {self.limit:g} {unit}"
        return f"{sign} {self.limit:g} x {self.against}"


@dataclass(frozen=True)
class Metric:
    """One measurement.

    Attributes:
        name: For --only and the results file.
        title: For people.
        unit: Of the values.
        kind: What the subjects are asked to do; see subjects/.
        others: The subjects to compare with.
        goals: What we want to reach.
        prompts: Token ids; one prompt per repetition, taken in turn.
        tokens: How many tokens to generate.
        repetitions: Within one process; the median counts.
        processes: Fresh processes per round; the median counts.
        model: A file in the folder of ci/bench; None for the usual model.
    """

    name: str
    title: str
    unit: str
    kind: str
    others: tuple[str, ...]
    goals: tuple[Goal, ...]
    prompts: tuple[tuple[int, ...], ...] = prompts.SHORT[:1]
    tokens: int = 0
    repetitions: int = 1
    processes: int = 1
    model: str | None = None

    @property
    def decimals(self) -> int:
        """How many are worth showing of its values."""
        return 3 if self.unit.startswith("x ") else 1


METRICS = (
    Metric(
        "generate_128",
        "generation, 128 tokens",
        "tokens/s",
        "generate",
        (PEER, UPSTREAM),
        (Goal(0.98, True, UPSTREAM), Goal(1.15, True, PEER)),
        tokens=128,
        repetitions=3,
    ),
    Metric(
        "generate_1000",
        "generation, 1000 tokens",
        "tokens/s",
        "generate",
        (PEER, UPSTREAM),
        (Goal(1.2, True, PEER),),
        tokens=1000,
    ),
    Metric(
        "prompt_512",
        "prompt, 512 tokens",
        "tokens/s",
        "prompt",
        (PEER, UPSTREAM),
        (Goal(0.98, True, UPSTREAM),),
        prompts=(prompts.arbitrary(512),),
        repetitions=3,
    ),
    Metric(
        "first_token",
        "first token, short prompt, warm",
        "ms",
        "first_token",
        (PEER,),
        (Goal(0.85, False, PEER),),
        prompts=prompts.SHORT,
        repetitions=len(prompts.SHORT),
    ),
    Metric("load", "load a model", "ms", "load", (PEER,), (), repetitions=3),
    Metric(
        "start",
        "start of the process to first token",
        "ms",
        "start",
        (PEER,),
        (Goal(0.78, False, PEER),),
        processes=3,
    ),
    Metric(
        "memory",
        "peak memory, 64 tokens",
        "MB",
        "memory",
        (PEER,),
        (Goal(0.945, False, PEER),),
        tokens=64,
    ),
    Metric(
        "import",
        "import",
        "ms",
        "import",
        (PEER,),
        (Goal(60, False),),
        processes=2,
    ),
    # What features cost: the rate with one, by the same library's rate without.
    Metric(
        "structured",
        "JSON object of 10 fields",
        "x plain",
        "structured",
        (PEER,),
        (Goal(0.95, True),),
        repetitions=5,
    ),
    Metric(
        "structured_gbnf",
        "the same, by GBNF",
        "x plain",
        "structured_gbnf",
        (),
        (Goal(0.95, True),),
        repetitions=5,
    ),
    Metric(
        "logprobs",
        "logprobs, 5 alternatives",
        "x plain",
        "logprobs",
        (PEER,),
        (Goal(0.95, True),),
        repetitions=5,
    ),
    Metric(
        "processor",
        "idle logits processor",
        "x plain",
        "processor",
        (PEER,),
        (Goal(0.97, True),),
        repetitions=5,
    ),
    Metric(
        "lookup",
        "prompt lookup, editing a text",
        "x plain",
        "lookup",
        (PEER,),
        (Goal(1.5, True),),
        repetitions=5,
    ),
    Metric(
        "embed_256",
        "256 texts of 5 to 20 words embedded",
        "texts/s",
        "embed",
        (PEER,),
        (Goal(3, True, PEER),),
        repetitions=3,
        model="minilm/model.gguf",
    ),
    # Chats with 1500 tokens of history.
    Metric(
        "chat_turn",
        "second turn of a chat, to the first token",
        "ms",
        "second_turn",
        (PEER,),
        (Goal(0.8, False, PEER),),
        repetitions=2,
    ),
    Metric(
        "chat_turn_ahead",
        "the same, in a session that reads ahead",
        "ms",
        "second_turn_ahead",
        (PEER,),
        (Goal(0.8, False, PEER),),
        repetitions=2,
    ),
    Metric(
        "chat_switch",
        "turn after one of another chat, to the first token",
        "ms",
        "switching",
        (PEER,),
        (Goal(0.1, False, PEER),),
        repetitions=3,
    ),
    Metric(
        "chat_switch_cost",
        "the same, by a turn after one of the same chat",
        "x same chat",
        "switch_cost",
        (),
        (Goal(1.1, False),),
        repetitions=4,
    ),
    Metric(
        "chat_load",
        "saved session loaded and answered, by computing it again",
        "x computed",
        "load_session",
        (),
        (Goal(0.05, False),),
        repetitions=3,
    ),
    Metric(
        "chat_long",
        "last turns of 20 x the context, by the first after it was full",
        "x early turns",
        "long_session",
        (),
        (Goal(1.1, False),),
    ),
)
