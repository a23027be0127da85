"""How long prompts are divided over steps: by measured times, and fairly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamacffi.engine.pace import FIRST_ROWS, LEAST_ROWS, Pace, shares


def test_before_anything_is_known() -> None:
    assert Pace(0.1, 2048).rows(0) == FIRST_ROWS
    assert Pace(0.1, 64).rows(4) == 60


def test_a_step_takes_as_long_as_it_may() -> None:
    pace = Pace(0.1, 2048)
    pace.learn(4, 0, 0.02)  # answers only
    pace.learn(0, 100, 0.1)
    assert pace.rows(4) == 80  # what is left of the step beside the answers
    assert pace.rows(0) == 400  # nobody is in a hurry
    assert pace.rows(0, n_prompts=2) == 100  # the other one is


def test_the_answers_in_a_step_are_not_counted_as_prompts() -> None:
    pace = Pace(0.2, 2048)
    pace.learn(4, 0, 0.05)
    pace.learn(4, 100, 0.15)
    assert pace.rows(0) == 799 or pace.rows(0) == 800


def test_some_progress_is_made_however_slow_it_is() -> None:
    pace = Pace(1e-9, 2048)
    pace.learn(1, 0, 5.0)
    pace.learn(1, 500, 60.0)
    assert pace.rows(1) == pace.rows(0) == LEAST_ROWS


def test_a_batch_is_not_exceeded() -> None:
    pace = Pace(float("inf"), 100)
    pace.learn(0, 100, 0.0)
    assert [pace.rows(n) for n in (0, 30, 100, 120)] == [100, 70, 0, 0]


def test_times_that_change_are_followed() -> None:
    pace = Pace(0.1, 10_000)
    for seconds in [0.1] * 20 + [0.01] * 20:
        pace.learn(0, 100, seconds)
    assert 3900 < pace.rows(0) < 4000


NEEDS = st.lists(st.integers(0, 500), max_size=12)


@given(NEEDS, st.integers(0, 600))
def test_shares_are_right(needs: list[int], rows: int) -> None:
    given_ = shares(needs, rows)
    assert len(given_) == len(needs)
    assert all(0 <= share <= need for share, need in zip(given_, needs, strict=True))
    assert sum(given_) == min(rows, sum(needs))  # nothing is left over that somebody wants
    if needs:
        assert given_[0] >= min(needs[0], (rows + 3) // 4)


def test_short_ones_come_before_long_ones() -> None:
    assert shares([1000, 1000, 10, 20], 100) == [70, 0, 10, 20]
    assert shares([1000, 60, 60], 100) == [25, 60, 15]
    assert shares([60, 60, 60], 80) == [60, 20, 0]
