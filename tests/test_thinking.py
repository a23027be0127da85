"""Thoughts: following them in a stream, ending them, and triggers that wait for their end."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacffi import Model
from llamacffi.errors import ParameterError
from llamacffi.sampling.thinking import Thinking, ThinkingBudget, ThinkingWatch
from llamacffi.sampling.trigger import Trigger
from llamacffi.vocab import Vocab

THINK = Thinking("<think>", ("</think>", "[/]"))
BEGUN = Thinking("<think>", ("</think>",), begun=True)
ONLY_END = Thinking("", ("</think>",), begun=True)

marked = st.lists(
    st.sampled_from(["<think>", "</think>", "[/]", "<thi", "nk>", "</", "a", "<tool>", "é", "\n"]),
    max_size=12,
).map("".join)
Cut = Callable[[str, list[int]], list[str]]


def watched(thinking: Thinking, pieces: Iterable[bytes]) -> ThinkingWatch:
    watch = ThinkingWatch(thinking)
    for piece in pieces:
        watch.push(piece)
    return watch


def reference(thinking: Thinking, text: str) -> bool:
    """Whether the end of a text is inside the thoughts."""
    inside = thinking.begun
    while True:
        marks = thinking.ends if inside else (thinking.start,) if thinking.start else ()
        places = [(text.find(mark), mark) for mark in marks if mark in text]
        if not places:
            return inside
        place, mark = min(places)
        text, inside = text[place + len(mark) :], not inside


@given(marked, st.lists(st.integers(0, 200), max_size=8), st.sampled_from([THINK, BEGUN, ONLY_END]))
def test_pieces_change_nothing(
    pieces: Cut, text: str, places: list[int], thinking: Thinking
) -> None:
    whole = watched(thinking, [text.encode()])
    cut = watched(thinking, (piece.encode() for piece in pieces(text, places)))
    bytewise = watched(thinking, (bytes([byte]) for byte in text.encode()))
    assert whole.inside == cut.inside == bytewise.inside == reference(thinking, text)


@pytest.mark.parametrize(
    ("thinking", "pieces", "inside", "rest"),
    [
        (THINK, [b"a<think>b"], True, b"b"),
        (THINK, [b"a<thi", b"nk>b"], True, b"b"),
        (THINK, [b"<think>b</thi", b"nk> c"], False, b" c"),
        (THINK, [b"<think>b[/]c"], False, b"c"),
        (THINK, [b"</think>"], False, b"</think>"),
        (THINK, [b"<think><think></think>"], False, b""),
        (BEGUN, [b"a"], True, b"a"),
        (BEGUN, [b"a</think>b<think>c"], True, b"c"),
        (ONLY_END, [b"a</think>b", b"</think>"], False, b"</think>"),
        (THINK, [], False, b""),
    ],
)
def test_where_the_text_ends(
    thinking: Thinking, pieces: list[bytes], inside: bool, rest: bytes
) -> None:
    watch = watched(thinking, pieces)
    assert (watch.inside, watch.rest) == (inside, rest)


def test_watch_is_cloned_and_reset() -> None:
    watch = watched(THINK, [b"<thi"])
    clone = watch.clone()
    clone.push(b"nk>")
    assert (watch.inside, clone.inside) == (False, True)
    clone.reset()
    clone.push(b"nk>")
    assert not clone.inside
    begun = watched(BEGUN, [b"</think>"])
    begun.reset()
    assert begun.inside


# -- budgets ----------------------------------------------------------------------------------


def written(vocab: Vocab, budget: ThinkingBudget, wanted: str, most: int = 80) -> str:
    """What comes of a model that wants to write a text, again and again."""
    wish = vocab.tokenize(wanted, add_special=False, parse_special=False)
    tokens: list[int] = []
    while len(tokens) < most:
        logits = np.zeros(len(vocab), dtype=np.float32)
        logits[wish[len(tokens) % len(wish)]] = 1.0
        seen = np.array(tokens, dtype=np.intc)
        budget(seen, logits)
        token = int(logits.argmax())
        assert budget.allows(seen, token)
        tokens.append(token)
    return vocab.detokenize(tokens, unparse_special=True)


@pytest.mark.parametrize("budget", [0, 1, 5, 20])
def test_thoughts_end_when_their_budget_is_used_up(model: Model, budget: int) -> None:
    limit = ThinkingBudget(model.vocab, BEGUN, budget, message=" Enough.")
    text = written(model.vocab, limit, "Hm, let me see. ")
    thoughts, end, _ = text.partition(" Enough.</think>")
    assert end
    count = len(model.vocab.tokenize(thoughts, add_special=False))
    assert count <= budget + 1  # the tokens at the edges may be cut in another way


def test_a_budget_that_is_not_reached_changes_nothing(model: Model) -> None:
    limit = ThinkingBudget(model.vocab, BEGUN, 1000)
    assert "</think>" not in written(model.vocab, limit, "Hm. ")


def test_a_model_that_does_not_think_is_left_alone(model: Model) -> None:
    limit = ThinkingBudget(model.vocab, THINK, 0)
    assert "</think>" not in written(model.vocab, limit, "Hello there. ")


def test_characters_are_not_cut(model: Model) -> None:
    for budget in range(8):
        limit = ThinkingBudget(model.vocab, BEGUN, budget)
        text = written(model.vocab, limit, "🦙𐍈🦙", most=40)
        assert "�" not in text.partition("</think>")[0]
        assert "</think>" in text


def test_budgets_are_cloned_and_begun_again(model: Model) -> None:
    vocab = model.vocab
    limit = ThinkingBudget(vocab, BEGUN, 3)
    tokens = np.array(vocab.tokenize("one two three four", add_special=False), dtype=np.intc)
    clone = limit.clone()
    assert not limit.allows(tokens, int(tokens[0]))
    assert clone.allows(tokens[:1], int(tokens[0]))
    limit.begin(tokens.tolist())
    assert limit.allows(tokens, int(tokens[0]))


def test_a_banned_end_is_written_all_the_same(model: Model) -> None:
    limit = ThinkingBudget(model.vocab, BEGUN, 0)
    logits = np.full(len(model.vocab), -np.inf, dtype=np.float32)
    limit(np.array([], dtype=np.intc), logits)
    assert np.isfinite(logits).sum() == 1


def test_negative_budgets(model: Model) -> None:
    with pytest.raises(ParameterError, match="-1"):
        ThinkingBudget(model.vocab, BEGUN, -1)


# -- triggers ---------------------------------------------------------------------------------


def triggered(vocab: Vocab, trigger: Trigger, tokens: Iterable[int]) -> bytes | None:
    """What the grammar gets to see in the end."""
    given = b""
    for token in tokens:
        if trigger.waiting:
            told = trigger.push(token)
            assert not isinstance(told, int)
            given = told or b""
        else:
            given += vocab.token_to_piece(token, special=True)
    return None if trigger.waiting else given


def in_bytes(vocab: Vocab, text: str) -> list[int]:
    """Tokens of one character each, where there are such."""
    return [
        token for char in text for token in vocab.tokenize(char, add_special=False)
    ]  # fmt: skip


@given(marked, marked)
def test_triggers_wait_for_the_end_of_the_thoughts(model: Model, before: str, after: str) -> None:
    text = before + "<tool>" + after
    for thinking in (None, THINK, BEGUN):
        found = []
        for tokens in (
            model.vocab.tokenize(text, add_special=False, parse_special=False),
            in_bytes(model.vocab, text),
        ):
            trigger = Trigger(model.vocab, [], ["<tool>"], [], thinking)
            found.append(triggered(model.vocab, trigger, tokens))
        assert found[0] == found[1]
        if thinking is None:
            assert found[0] == ("<tool>" + text.split("<tool>", 1)[1]).encode()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think>a <tool> b</think>c", None),
        ("<think>a <tool> b</think>c <tool>d", b"<tool>d"),
        ("a <tool>d<think>", b"<tool>d<think>"),
        ("<think>a</think><tool>d", b"<tool>d"),
        ("<think>a</think><to<think>ol></think>", None),
        ("<think>a<to</think>ol>", None),
    ],
)
def test_nothing_triggers_inside_the_thoughts(model: Model, text: str, found: bytes | None) -> None:
    for patterns, words in (([], ["<tool>"]), (["<tool>"], []), ([r"[\s\S]*?(<tool>)"], [])):
        trigger = Trigger(model.vocab, patterns, words, [], THINK)
        clone = trigger.clone()
        tokens = in_bytes(model.vocab, text)
        assert triggered(model.vocab, trigger, tokens) == found
        assert triggered(model.vocab, clone, tokens) == found
        trigger.reset()
        assert triggered(model.vocab, trigger, tokens) == found


def test_trigger_tokens_inside_the_thoughts(model: Model) -> None:
    vocab = model.vocab
    (end,) = vocab.tokenize("<|im_end|>", add_special=False, parse_special=True)
    trigger = Trigger(vocab, [], [], [end], THINK)
    for token in in_bytes(vocab, "<think>a"):
        assert trigger.push(token) is None
    assert trigger.push(end) is None
    for token in in_bytes(vocab, "</think>"):
        assert trigger.push(token) is None
    assert trigger.push(end) == end
