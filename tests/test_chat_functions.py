"""Plain Python functions as tools: described by their signature, called in a bounded loop."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Optional

import pydantic
import pytest

from llamacffi import ChatSession, Context, Model
from llamacffi.chat import tool_of
from llamacffi.chat.functions import call
from llamacffi.chat.tools import Tools
from llamacffi.errors import ParameterError
from tests.sessions import scripted, session_on


class Unit(enum.Enum):
    CELSIUS = "c"
    KELVIN = "k"


class Place(pydantic.BaseModel):
    name: str
    floor: int = 0


@dataclasses.dataclass
class Report:
    degrees: float


class Station:
    """Holds a thermometer."""

    def measure(self, room: str, times: int = 1) -> str:
        """Measure.

        Args:
            room: Where,
                exactly.
            times (int): How often: more is better.

        Returns:
            A number.
        """
        return f"{room} x{times}"

    def __call__(self, room: str) -> str:
        """Call it."""
        return room

    @staticmethod
    def fixed(a: int) -> int:
        return a

    @classmethod
    def of_class(cls, a: int) -> int:
        return a


def weather(city: str, unit: Unit = Unit.CELSIUS, *, days: int | None = None) -> dict[str, Any]:
    """Tell the weather
    of a city.

    More about it.

    Args:
        city: Its name.
    """
    return {"city": city, "unit": unit, "days": days}


def parameters(function: Any) -> dict[str, Any]:
    described = tool_of(function)["function"]["parameters"]
    assert described["type"] == "object"
    assert described["additionalProperties"] is False
    return dict(described)


def test_a_description() -> None:
    assert tool_of(weather) == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tell the weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Its name."},
                    "unit": {"enum": ["c", "k"]},
                    "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }


@pytest.mark.parametrize(
    ("hint", "schema", "good", "bad"),
    [
        (str, {"type": "string"}, ["a", ""], [1, None, ["a"]]),
        (int, {"type": "integer"}, [1, -2], ["1", 1.5, True, None]),
        (float, {"type": "number"}, [1.5], ["1", True]),
        (bool, {"type": "boolean"}, [True], [1, "true"]),
        (None, {"type": "null"}, [None], [0]),
        (Optional[str], None, ["a", None], [1]),  # noqa: UP045  people write it
        (Any, {}, [1, None, {"x": []}], []),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}, [1, None], ["1"]),
        (int | list[int], None, [1, [1, 2]], ["1", ["1"]]),
        (list[int] | list[str], None, [[1], ["a"]], [[None]]),
        (Literal["a", 1], {"enum": ["a", 1]}, ["a", 1], ["b", True]),
        (list, {"type": "array"}, [[1, "a"]], ["a", {}]),
        (list[int], {"type": "array", "items": {"type": "integer"}}, [[], [1]], [["a"], 1]),
        (Sequence[str], {"type": "array", "items": {"type": "string"}}, [["a"]], [[1]]),
        (dict, {"type": "object"}, [{"a": 1}], [[1]]),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}},
         [{"a": 1}], [{"a": "b"}]),
        (Mapping[str, list[bool]], None, [{"a": [True]}], [{"a": True}]),
        (Annotated[int, "how many"], {"type": "integer", "description": "how many"}, [3], ["3"]),
    ],
)  # fmt: skip
def test_annotations(hint: Any, schema: Any, good: list[Any], bad: list[Any]) -> None:
    got = []

    def tool(x):  # type: ignore[no-untyped-def]  # it is annotated below
        got.append(x)
        return "called"

    tool.__annotations__ = {"x": hint}
    if schema is not None:
        assert parameters(tool)["properties"]["x"] == schema
    for value in good:
        assert call(tool, json.dumps({"x": value})) == "called"
        assert got[-1] == value
    for value in bad:
        assert call(tool, json.dumps({"x": value})).startswith("Error: ")
    assert len(got) == len(good)


def test_values_are_what_the_annotation_says() -> None:
    got: list[Any] = []

    def tool(a: Unit, b: Place, c: list[Place], d: float, e: int, f: tuple[str, ...]) -> None:
        got.extend([a, b, c, d, e, f])

    given = {"a": "k", "b": {"name": "x"}, "c": [{"name": "y", "floor": 2}], "d": 1, "e": 2.0,
             "f": ["p", "q"]}  # fmt: skip
    assert call(tool, json.dumps(given)) == "null"
    assert got == [Unit.KELVIN, Place(name="x"), [Place(name="y", floor=2)], 1.0, 2, ("p", "q")]
    assert [type(value) for value in got[3:5]] == [float, int]
    assert "floor" in str(parameters(tool)["properties"]["b"])
    assert "d is 'x'; it should be float" in call(tool, json.dumps({**given, "d": "x"}))


def test_callables_of_many_kinds() -> None:
    station = Station()
    measured = parameters(station.measure)
    assert measured["required"] == ["room"]
    assert measured["properties"]["room"]["description"] == "Where, exactly."
    assert measured["properties"]["times"]["description"] == "How often: more is better."
    assert call(station.measure, '{"room": "attic", "times": 2}') == "attic x2"
    assert tool_of(station)["function"]["name"] == "Station"
    assert tool_of(station)["function"]["description"] == "Call it."
    assert call(station, '{"room": "attic"}') == "attic"
    assert call(Station.fixed, '{"a": 3}') == call(Station.of_class, '{"a": 3}') == "3"

    partial = functools.partial(station.measure, times=5)
    assert tool_of(partial)["function"]["name"] == "measure"
    assert list(parameters(partial)["properties"]) == ["room"]
    assert call(partial, '{"room": "attic"}') == "attic x5"

    @functools.wraps(weather)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return weather(*args, **kwargs)["unit"].value

    assert tool_of(wrapped) == tool_of(weather)
    assert call(wrapped, '{"city": "x", "unit": "k"}') == "k"

    def free(a, *rest: int, b=2, **more: int):  # type: ignore[no-untyped-def]  # that is tested
        return [a, b]

    assert parameters(free)["properties"] == {"a": {}, "b": {}}
    assert call(free, '{"a": null}') == "[null, 2]"
    assert call(Place, '{"name": "x"}') == '{"name": "x", "floor": 0}'


async def asynchronous(x: int) -> int:
    return x


def positional(x: int, /) -> int:
    return x


def generating(x: int) -> Iterator[int]:
    yield x


def unknown(x: object) -> None: ...


def keyed(x: dict[int, str]) -> None: ...


def misspelt(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821  that is tested


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (asynchronous, "asynchronous"),
        (functools.partial(asynchronous, x=1), "asynchronous"),
        (generating, "generator"),
        (positional, "positional only"),
        (unknown, r"unknown\(x\) is annotated"),
        (keyed, r"keyed\(x\) is annotated"),
        (misspelt, "Nowhere"),
        (lambda x: x, "by a name"),
    ],
)
def test_what_cannot_be_a_tool(function: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        tool_of(function)


def test_results_and_failures_are_texts(caplog: pytest.LogCaptureFixture) -> None:
    results = [Report(1.5), Place(name="x"), Unit.KELVIN, {"a": {1}}, "text", None, object]
    found = [call(lambda value=value: value, "{}") for value in results]
    assert found[:6] == [
        '{"degrees": 1.5}', '{"name": "x", "floor": 0}', '"k"', '{"a": [1]}', "text", "null",
    ]  # fmt: skip
    for arguments in ("", "[1]", "{", '{"town": "x"}', '{"city": 3}', '{"city": "x", "unit": "f"}'):
        assert call(weather, arguments).startswith("Error: ")
    assert "the tool weather failed" in caplog.text

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(stop, "{}")


# -- the loop -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_tiny(tiny_falcon: Model) -> Iterator[Context]:
    with tiny_falcon.context(n_ctx=4096, n_threads=1) as made:
        yield made


def calling(name: str, /, **arguments: Any) -> str:
    text = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{text}\n</tool_call>"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def broken(a: int) -> int:
    """Does not work."""
    raise RuntimeError(f"no {a}")


DESCRIBED = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
    },
}


def speaking(context: Context, *answers: str, **options: Any) -> ChatSession:
    sampling = scripted(context.model.vocab, *answers)
    return session_on(context, **{"sampling": sampling, "max_tokens": 300, **options})


def story(session: ChatSession) -> list[str]:
    """The history in short."""
    told = []
    for message in session.messages:
        calls = message.get("tool_calls", ())
        names = ",".join(one["function"]["name"] for one in calls)
        told.append(
            f"{message['role'][0]}:{message.get('content', '')}" + (f"({names})" if calls else "")
        )
    return told


def test_a_tool_is_called_and_its_result_seen(on_tiny: Context) -> None:
    session = speaking(on_tiny, calling("add", a=3, b=4), "It is 7.", tools=[add])
    assert list(session.stream("3 + 4?"))[-1].endswith(".")
    assert story(session) == ["u:3 + 4?", "a:(add)", "t:7", "a:It is 7."]
    one, result = session.messages[1]["tool_calls"][0], session.messages[2]
    assert result["tool_call_id"] == one["id"]
    assert result["name"] == "add"
    assert session.pending_calls == []


def test_a_failing_tool_is_told_to_the_model(on_tiny: Context) -> None:
    session = speaking(on_tiny, calling("broken", a=3), "A pity.", tools=[add, broken])
    assert session.ask("?") == "A pity."
    assert story(session)[2] == "t:Error: RuntimeError: no 3"


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_rounds_are_bounded(on_tiny: Context, rounds: int) -> None:
    calls = [calling("add", a=number, b=0) for number in range(9)]
    session = speaking(on_tiny, *calls, tools=[add], max_tool_rounds=rounds)
    assert session.ask("?") == ""  # the last answer is a call that nobody carries out
    assert [told[0] for told in story(session)] == ["u", *["a", "t"] * rounds, "a"]
    assert "tool_calls" not in session.messages[-1]
    session = speaking(on_tiny, *calls[:rounds], "Done.", tools=[add], max_tool_rounds=rounds)
    assert session.ask("?") == "Done."


def test_tool_choice(on_tiny: Context) -> None:
    session = speaking(on_tiny, "No. " + calling("add", a=1, b=2), tools=[add])
    assert session.ask("?", tool_choice="none").strip() == "No."
    assert len(session.messages) == 2
    session = speaking(on_tiny, calling("add", a=1, b=2), "3", tools=[add, broken])
    assert session.ask("?", tool_choice={"type": "function", "function": {"name": "add"}}) == "3"
    for bad in ("required", {"function": {}}):
        with pytest.raises(ParameterError):
            session_on(on_tiny).ask("?", tool_choice=bad)


def test_calls_of_what_there_is_not(on_tiny: Context) -> None:
    # The grammar of the calls leaves no room for another name; a template of one's own might.
    wrong = {"id": "1", "type": "function", "function": {"name": "sub", "arguments": "{}"}}
    (result,) = Tools([add]).results([wrong])
    assert result["content"] == "Error: there is no tool 'sub'; there are add."


def test_described_tools_are_the_callers(on_tiny: Context) -> None:
    both = calling("add", a=1, b=2) + "\n" + calling("lookup", key="x")
    session = speaking(on_tiny, both, "All done.", tools=[add, DESCRIBED])
    assert session.ask("?") == ""
    assert story(session) == ["u:?", "a:(add,lookup)", "t:3"]
    (pending,) = session.pending_calls
    assert pending["function"] == {"name": "lookup", "arguments": '{"key": "x"}'}
    answer = {"role": "tool", "tool_call_id": pending["id"], "content": "42"}
    assert session.ask(answer) == "All done."
    assert session.pending_calls == []
    assert [told[0] for told in story(session)] == ["u", "a", "t", "t", "a"]


def test_ctrl_c_in_a_tool(on_tiny: Context) -> None:
    def first() -> str:
        """First."""
        return "done"

    def second() -> str:
        """Second."""
        raise KeyboardInterrupt

    both = calling("first") + "\n" + calling("second")
    session = speaking(on_tiny, both, "Well.", tools=[first, second])
    with pytest.raises(KeyboardInterrupt):
        session.ask("?")
    assert story(session)[2:] == ["t:done", "t:Error: the call was stopped before it was done."]
    assert session.ask("and?") == "Well."


def test_a_call_that_was_cut_is_none(on_tiny: Context) -> None:
    session = speaking(on_tiny, *["Hm. " + calling("add", a=1, b=2)] * 30, tools=[add])
    full = len(session.model.vocab.tokenize("Hm. " + calling("add", a=1, b=2), add_special=False))
    for n_tokens in range(2, full, 7):
        session.ask("?", max_tokens=n_tokens)
        assert session.finish_reason == "length"
        assert "tool_calls" not in session.messages[-1]
        session.rewind()
    stream = session.stream("?")
    next(stream)
    stream.close()
    assert story(session) == ["u:?", "a:H"]


def test_a_failure_behind_a_tool_takes_all_back(on_tiny: Context) -> None:
    def long() -> str:
        """Long."""
        return "long " * 5000

    session = speaking(on_tiny, calling("long"), tools=[long])
    with pytest.raises(ValueError, match="room for"):
        session.ask("?")
    assert session.messages == []


def test_a_tool_may_look_at_its_session(on_tiny: Context) -> None:
    def history() -> str:
        """Look."""
        twin = session.fork()
        twin.close()
        return str(len(session.messages))

    def meddle() -> str:
        """Change."""
        session.rewind()
        return "never"

    session = speaking(
        on_tiny, calling("history"), calling("meddle"), "Hm.", tools=[history, meddle]
    )
    assert session.ask("?") == "Hm."
    assert story(session)[2] == "t:2"
    assert "while it answers" in story(session)[4]
    with pytest.raises(ParameterError, match="one name"):
        session_on(on_tiny, tools=[add, add])
