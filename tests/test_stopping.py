"""Stop strings: the result depends on the text alone, not on how it came in pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacffi.errors import ParameterError
from llamacffi.stopping import StopStrings

# Few letters, so that stop strings occur, overlap and almost occur.
texts = st.text("abc", max_size=30)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)
places = st.lists(st.integers(0, 100), max_size=12)
Cut = Callable[[str, Sequence[int]], list[str]]


def expected(text: str, stops: Sequence[str]) -> str:
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found, default=len(text))]


def run(stops: Sequence[str], pieces: Sequence[str]) -> tuple[str, str | None, list[str]]:
    watcher = StopStrings(stops)
    shown = []
    for piece in pieces:
        shown.append(watcher.push(piece))
        if watcher.matched is not None:
            break
    shown.append(watcher.finish())
    return "".join(shown), watcher.matched, shown


@given(texts, stop_lists, places)
def test_the_text_ends_at_the_earliest_stop_however_it_is_cut(
    pieces: Cut, text: str, stops: list[str], places: list[int]
) -> None:
    shown, matched, _ = run(stops, pieces(text, places))
    assert shown == expected(text, stops)
    assert (matched is not None) == any(stop in text for stop in stops)
    if matched is not None:
        assert text.startswith(matched, len(shown))


@given(texts, stop_lists)
def test_nothing_of_a_stop_is_shown_early(text: str, stops: list[str]) -> None:
    wanted = expected(text, stops)
    watcher, shown = StopStrings(stops), ""
    for character in text:
        shown += watcher.push(character)
        assert wanted.startswith(shown)
        if watcher.matched is not None:
            break


@given(texts, stop_lists)
def test_no_more_is_held_back_than_could_become_a_stop(text: str, stops: list[str]) -> None:
    watcher = StopStrings(stops)
    shown = watcher.push(text)
    held = text[len(shown) :]
    if watcher.matched is None and held:
        assert any(stop.startswith(held) and len(stop) > len(held) for stop in stops)


@given(st.text(max_size=40), st.text(min_size=1, max_size=3), places)
def test_any_characters(pieces: Cut, text: str, stop: str, places: list[int]) -> None:
    assert run([stop], pieces(text, places))[0] == expected(text, [stop])


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "matched"),
    [
        (["abc", "b"], ["xab"], "xa", "b"),  # "abc" may still come, and begins earlier
        (["abc", "b"], ["xab", "c"], "x", "abc"),
        (["abc", "b"], ["xab", "d"], "xa", "b"),
        (["b", "abc"], ["x", "a", "b", "c"], "x", "abc"),
        (["End", "Start"], ["a Start b End"], "a ", "Start"),  # not the first listed
        (["<|im_end|>"], ["hi<|im", "_e", "nd|>x"], "hi", "<|im_end|>"),
        (["<|im_end|>"], ["hi<|im", "_e"], "hi<|im_e", None),
        (["aab"], ["aaab"], "a", "aab"),
        (["aab"], ["a", "a", "a", "b"], "a", "aab"),
        ([], ["a", "", "b"], "ab", None),
        (["é"], ["caf", "é!"], "caf", "é"),
    ],
)
def test_cases(stops: list[str], pieces: list[str], shown: str, matched: str | None) -> None:
    assert run(stops, pieces)[:2] == (shown, matched)


def test_after_a_match_nothing_comes() -> None:
    watcher = StopStrings(["."])
    assert watcher.push("a.b") == "a"
    assert watcher.push("c") == watcher.finish() == ""
    assert watcher.matched == "."


def test_finish_gives_back_what_was_held() -> None:
    watcher = StopStrings(["abc"])
    assert watcher.push("xab") == "x"
    assert watcher.finish() == "ab"
    assert watcher.finish() == ""


def test_a_megabyte_in_small_pieces_is_no_burden() -> None:
    """The cost of a piece does not grow with the text before it."""
    watcher = StopStrings(["never there", "nor that"])
    assert sum(len(watcher.push("never thing ")) for _ in range(50_000)) == 600_000


@pytest.mark.parametrize("stops", [[""], ["a", ""], [None], [3], [b"a"]])
def test_refused(stops: list[object]) -> None:
    with pytest.raises(ParameterError, match="stop"):
        StopStrings(stops)  # type: ignore[arg-type]
