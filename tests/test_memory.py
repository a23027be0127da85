"""What a context remembers: editing it changes what comes next as if it had been decoded so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacffi import Context, Model
from llamacffi.errors import InvalidPositionError, InvalidSequenceError, UnsupportedError
from tests.conftest import CLOSE
from tests.tiny_models import write_model

FIRST, SECOND = [5, 200, 7, 9, 11], [20, 21, 22]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Model]]:
    folder = tmp_path_factory.mktemp("memory")
    made: dict[str, Model] = {}

    def model_of(architecture: str) -> Model:
        if architecture not in made:
            path = write_model(folder / f"{architecture}.gguf", architecture)
            made[architecture] = Model(path, backend="cpu")
        return made[architecture]

    for name in ("llama", "mamba", "gemma3"):
        model_of(name)  # before the leak check of the first test looks
    yield model_of
    for model in made.values():
        model.close()


@pytest.fixture(params=[False, True], ids=["separate", "unified"])
def context(request: pytest.FixtureRequest, models: Callable[[str], Model]) -> Iterator[Context]:
    with models("llama").context(
        n_ctx=256, n_threads=1, n_seq_max=4, kv_unified=request.param
    ) as made:
        made.decode_tokens(FIRST)
        yield made


@pytest.fixture
def fresh(models: Callable[[str], Model]) -> Callable[[list[int]], Any]:
    """A function: the logits after some tokens, decoded in a context of their own."""

    def logits_after(tokens: list[int]) -> Any:
        with models("llama").context(n_ctx=64, n_threads=1) as clean:
            clean.decode_tokens(tokens)
            return clean.logits().copy()

    return logits_after


def test_positions_and_tokens(context: Context) -> None:
    memory = context.memory
    assert (memory.position_min(), memory.position_max()) == (0, 4)
    assert memory.tokens() == FIRST
    assert [memory.token_at(place) for place in range(-1, 6)] == [None, *FIRST, None]
    assert memory.token_at(0, 1) is None
    assert (memory.position_min(1), memory.position_max(1), memory.tokens(1)) == (-1, -1, [])
    tokens = memory.tokens()
    tokens.clear()
    assert memory.tokens() == FIRST, "its own list was handed out"


@pytest.mark.parametrize(
    ("tokens", "length"),
    [([], 0), (FIRST, 5), ([*FIRST, 1], 5), (FIRST[:2], 2), ([5, 200, 8], 2), ([6], 0)],
)
def test_the_common_prefix(context: Context, tokens: list[int], length: int) -> None:
    assert context.memory.common_prefix(tokens) == length
    assert context.memory.common_prefix(tuple(tokens)) == length
    assert context.memory.common_prefix(np.array(tokens, np.int32)) == length
    assert context.memory.common_prefix(tokens, 1) == 0


def test_clearing(context: Context, fresh: Callable[[list[int]], Any]) -> None:
    for data in (False, True):
        context.memory.clear(data)
        assert context.memory.position_max() == -1
        assert context.memory.tokens() == []
        context.decode_tokens(SECOND)
        assert np.allclose(context.logits(), fresh(SECOND), **CLOSE)


def test_removing_the_end(context: Context, fresh: Callable[[list[int]], Any]) -> None:
    assert context.memory.remove(0, 2)
    assert context.memory.tokens() == FIRST[:2]
    assert context.memory.position_max() == 1
    context.decode_tokens(SECOND)
    assert np.allclose(context.logits(), fresh(FIRST[:2] + SECOND), **CLOSE)


def test_removing_the_start(context: Context) -> None:
    assert context.memory.remove(0, 0, 2)
    assert (context.memory.position_min(), context.memory.position_max()) == (2, 4)
    assert context.memory.tokens() == []
    assert context.memory.common_prefix(FIRST) == 0
    context.decode_tokens([7])
    assert context.memory.tokens() == [], "what is behind a hole is no prefix"


def test_removing_from_the_middle(context: Context) -> None:
    assert context.memory.remove(0, 1, 3)
    assert context.memory.tokens() == FIRST[:1]
    assert context.memory.position_max() == 4


def test_removing_a_sequence_or_all(context: Context) -> None:
    context.decode_tokens(SECOND, sequence=1)
    assert context.memory.remove(0)
    assert (context.memory.tokens(0), context.memory.tokens(1)) == ([], SECOND)
    assert context.memory.remove(-1)
    assert context.memory.position_max(1) == -1
    assert context.memory.tokens(1) == []


def test_removing_nothing(context: Context) -> None:
    assert context.memory.remove(0, 5)
    assert context.memory.remove(0, 100, 200)
    assert context.memory.remove(2)
    assert context.memory.tokens() == FIRST
    assert context.memory.position_max() == 4


def test_shifting(context: Context, fresh: Callable[[list[int]], Any]) -> None:
    assert context.memory.can_shift
    context.memory.remove(0, 0, 2)
    context.memory.shift(0, 2, -1, -2)
    assert (context.memory.position_min(), context.memory.position_max()) == (0, 2)
    assert context.memory.tokens() == []
    context.decode_tokens([9])
    assert np.isfinite(context.logits()).all()


def test_shifting_back_and_forth_is_nothing(
    context: Context, fresh: Callable[[list[int]], Any]
) -> None:
    context.memory.shift(0, 0, -1, 7)
    assert (context.memory.position_min(), context.memory.position_max()) == (7, 11)
    context.memory.shift(0, 0, -1, -7)
    context.decode_tokens(SECOND)
    assert np.allclose(context.logits(), fresh(FIRST + SECOND), **CLOSE)


def test_dividing(context: Context) -> None:
    context.memory.divide(0, 0, -1, 2)
    assert (context.memory.position_min(), context.memory.position_max()) == (0, 2)
    context.decode_tokens([9])
    for divisor in (0, -1):
        with pytest.raises(InvalidPositionError):
            context.memory.divide(0, 0, -1, divisor)


def test_copying(context: Context, fresh: Callable[[list[int]], Any]) -> None:
    context.memory.copy(0, 1)
    assert context.memory.tokens(1) == FIRST
    assert context.memory.position_max(1) == 4
    context.decode_tokens(SECOND, sequence=1)
    assert np.allclose(context.logits(), fresh(FIRST + SECOND), **CLOSE)
    assert context.memory.tokens(0) == FIRST, "the twins were not parted"
    context.decode_tokens([9], sequence=0)
    assert np.allclose(context.logits(), fresh([*FIRST, 9]), **CLOSE)


def test_copying_over_something(context: Context, fresh: Callable[[list[int]], Any]) -> None:
    """What is said to be remembered is what is attended to, or nothing is said."""
    context.decode_tokens(SECOND, sequence=1)
    context.memory.copy(0, 1)
    known = context.memory.tokens(1)
    assert known != SECOND
    if known:
        assert context.memory.position_max(1) == len(known) - 1
        context.decode_tokens([9], sequence=1)
        assert np.allclose(context.logits(), fresh([*known, 9]), **CLOSE)


def test_copying_a_part(context: Context) -> None:
    if not context.params.kv_unified:
        with pytest.raises(UnsupportedError, match="kv_unified"):
            context.memory.copy(0, 1, 0, 3)
        assert context.memory.tokens(1) == []
        return
    context.memory.copy(0, 1, 0, 3)
    assert context.memory.tokens(1) == FIRST[:3]
    context.memory.copy(0, 2, 2)
    assert context.memory.tokens(2) == []
    assert context.memory.position_min(2) == 2


def test_copying_to_itself(context: Context) -> None:
    context.memory.copy(0, 0)
    assert context.memory.tokens() == FIRST
    context.decode_tokens(SECOND)


def test_keeping_one(context: Context) -> None:
    context.decode_tokens(SECOND, sequence=1)
    context.decode_tokens(SECOND, sequence=2)
    context.memory.keep(1)
    assert [context.memory.position_max(sequence) for sequence in range(4)] == [-1, 2, -1, -1]
    assert context.memory.tokens(0) == context.memory.tokens(2) == []
    assert context.memory.tokens(1) == SECOND


@pytest.mark.parametrize("sequence", [-2, 4, 10**6, 2**31, 2**40])
def test_sequences_that_are_not_there(context: Context, sequence: int) -> None:
    memory = context.memory
    for use in (
        lambda: memory.position_min(sequence),
        lambda: memory.position_max(sequence),
        lambda: memory.tokens(sequence),
        lambda: memory.remove(sequence),
        lambda: memory.copy(sequence, 0),
        lambda: memory.copy(0, sequence),
        lambda: memory.keep(sequence),
        lambda: memory.shift(sequence, 0, -1, 1),
        lambda: memory.divide(sequence, 0, -1, 2),
    ):
        with pytest.raises(InvalidSequenceError):
            use()
    assert memory.tokens() == FIRST


def test_the_common_prefix_with_no_sequence(context: Context) -> None:
    with pytest.raises(InvalidSequenceError):
        context.memory.common_prefix(FIRST, 99)


@pytest.mark.parametrize(("start", "end"), [(-5, -1), (3, 2), (0, 0), (2**31 - 1, -1), (5, 2)])
def test_odd_ranges(context: Context, start: int, end: int) -> None:
    """Nothing dies, and what is said to be known is still there."""
    memory = context.memory
    memory.remove(0, start, end)
    memory.copy(0, 1)
    memory.shift(0, start, end, 1)
    known = memory.tokens()
    assert len(known) <= memory.position_max() + 1
    context.decode_tokens([9])


@pytest.mark.parametrize("delta", [-(10**6), 10**6, 2**31 - 1, -(2**31)])
def test_shifts_out_of_the_world(context: Context, delta: int) -> None:
    try:
        context.memory.shift(0, 0, -1, delta)
    except (InvalidPositionError, OverflowError):
        assert context.memory.tokens() == FIRST
    context.memory.clear()
    context.decode_tokens(FIRST)
    assert np.isfinite(context.logits()).all()


def test_a_state_cannot_forget_a_part(models: Callable[[str], Model]) -> None:
    with models("mamba").context(n_ctx=64, n_threads=1) as context:
        context.decode_tokens(FIRST)
        assert not context.memory.remove(0, 2)
        assert context.memory.tokens() == FIRST
        assert not context.memory.can_shift or context.memory.position_max() == 4
        assert context.memory.remove(0)
        context.decode_tokens(SECOND)


def test_a_sliding_window(models: Callable[[str], Model], tmp_path: Path) -> None:
    with models("gemma3").context(n_ctx=128, n_threads=1) as context:
        context.decode_tokens(list(range(3, 63)))
        assert context.memory.position_max() == 59
        assert context.memory.position_min() >= 0
        assert len(context.memory.tokens()) == 60


some_tokens = st.lists(st.integers(3, 40), min_size=1, max_size=5)
edits = st.lists(
    st.one_of(
        st.tuples(st.just("decode"), st.integers(0, 3), some_tokens),
        st.tuples(st.just("remove"), st.integers(0, 3), st.integers(0, 8)),
        st.tuples(st.just("copy"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("keep"), st.integers(0, 3), st.none()),
        st.tuples(st.just("clear"), st.none(), st.none()),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(edits, st.booleans())
def test_any_edits(models: Callable[[str], Model], edits: list[Any], unified: bool) -> None:
    """A model in Python: what each sequence holds after edits that leave no holes."""
    wanted: dict[int, list[int]] = {sequence: [] for sequence in range(4)}
    with models("llama").context(
        n_ctx=512, n_threads=1, n_seq_max=4, kv_unified=unified
    ) as context:
        memory = context.memory
        for what, one, two in edits:
            if what == "decode":
                context.decode_tokens(two, sequence=one)
                wanted[one] += two
            elif what == "remove":
                assert memory.remove(one, two)
                del wanted[one][two:]
            elif what == "copy" and one != two:
                memory.remove(two)
                memory.copy(one, two)
                wanted[two] = list(wanted[one])
            elif what == "keep":
                memory.keep(one)
                wanted = {s: t if s == one else [] for s, t in wanted.items()}
            elif what == "clear":
                memory.clear()
                wanted = {sequence: [] for sequence in range(4)}
        for sequence, tokens in wanted.items():
            assert memory.tokens(sequence) == tokens
            assert memory.position_max(sequence) == len(tokens) - 1
