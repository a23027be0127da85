"""Regular expressions, Lark grammars, and following a text: ends, rewinding, clones, closing."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import llamacffi
from llamacffi import Model
from llamacffi.errors import GrammarError, NativeError, ParameterError


def ids(model, text):
    return model.vocab.tokenize(text, add_special=False)


def ends(model):
    return [token for token in range(model.vocab.n_tokens) if model.vocab.is_eog(token)]


def texts(model, tokens):
    return {model.vocab.token_to_piece(token) for token in tokens}


def test_it_is_registered():
    sampler = llamacffi.samplers()["llguidance"]
    assert sampler.formats == ("json_schema", "regex", "lark")


def test_regex(llama, create):
    processor = create(llama.model.vocab, regex=r"(\d{3}-){2}\d{4}")
    result = llama.create_completion(
        "My telephone number is ", max_tokens=40, seed=3, logits_processor=processor
    )
    digits = result["choices"][0]["text"].split("-")
    assert [len(part) for part in digits] == [3, 3, 4]
    assert "".join(digits).isdecimal()


def test_lark(llama, create):
    grammar = 'start: sum\nsum: NUMBER | sum " + " NUMBER\nNUMBER: /[1-9]/'
    result = llama.create_completion(
        "Sum: ", max_tokens=9, logits_processor=create(llama.model.vocab, lark=grammar)
    )
    text = result["choices"][0]["text"]
    assert all(part.isdecimal() and len(part) == 1 for part in text.rstrip(" +").split(" + "))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"regex": "ab("}, "ab(\n      ^\nerror: unclosed group"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": "a*" * 2000}, "Correct or simplify"),
        ({"regex": "(a{1000}){1000}"}, "prescribes"),
        ({"regex": "(" * 5000 + "a" + ")" * 5000}, "regex"),
        ({"lark": "start: foo"}, 'line 1, column 8: unknown name: "foo"'),
        ({"lark": 'start: "a" | )'}, "line 1, column 14"),
        ({"lark": "start: loop\nloop: loop"}, "no text"),
        ({"lark": ""}, "lark"),
        ({"lark": '{"grammars": [{"regex": "a"}]}'}, "lark"),
        ({"lark": "start: " + "(" * 3000 + "A" + ")" * 3000}, "too deeply nested"),
    ],
)
def test_grammar_errors(model, create, given, words):
    with pytest.raises(GrammarError) as caught:
        create(model.vocab, **given)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert "<" not in str(caught.value).replace("(?<", "")


def test_text_must_be_text(model, create):
    with pytest.raises(TypeError, match="regex"):
        create(model.vocab, regex=b"a")


def test_every_end_token_is_allowed_when_the_text_may_end_and_only_then(model, create, allowed):
    processor = create(model.vocab, regex="ab?")
    assert len(ends(model)) > 1
    assert not set(ends(model)) & set(allowed(processor, [1]))
    after = allowed(processor, [1, *ids(model, "a")])
    assert set(ends(model)) < set(after)
    assert texts(model, after) == {b"", b"b"}
    for end in ends(model):  # a caller may ignore the end: nothing but ends can follow
        assert allowed(processor, [1, *ids(model, "a"), end, end]) == ends(model)
    assert allowed(processor, [1, *ids(model, "ab")]) == ends(model)


def test_control_tokens_are_never_text(model, create, allowed):
    control = {t for t in range(model.vocab.n_tokens) if model.vocab.is_control(t)}
    anything = create(model.vocab, regex="(?s:.*)")
    anything.begin([1])
    for text in ("", "any", "anything"):
        assert control & set(allowed(anything, [1, *ids(model, text)])) == set(ends(model))
    spelled = create(model.vocab, regex=r"<\|im_start\|>")
    assert control.isdisjoint(allowed(spelled, [1]))


def test_rewinding(model, create, allowed):
    processor = create(model.vocab, regex="(abc|xyz)+")
    prompt, first, second = ids(model, "Say: "), ids(model, "abcabc"), ids(model, "xyzabc")
    processor.begin(prompt)
    start = allowed(processor, prompt)
    places = {}
    for length in range(1, len(first) + 1):
        places[length] = allowed(processor, prompt + first[:length])
    assert allowed(processor, prompt + second)  # another branch
    for length in reversed(places):
        assert allowed(processor, prompt + first[:length]) == places[length]
        assert allowed(processor, prompt + first) == places[len(first)]  # several at once
    assert allowed(processor, prompt) == start
    end = ends(model)[0]
    allowed(processor, [*prompt, *first, end, end, end])
    assert allowed(processor, prompt + first[:1]) == places[1]  # back from after the end


def test_begin_twice_and_not_at_all(model, create, allowed):
    processor = create(model.vocab, regex="ab")
    start = allowed(processor, ids(model, "no begin"))
    allowed(processor, ids(model, "no begin") + ids(model, "a"))
    processor.begin([5, 6])
    assert allowed(processor, [5, 6]) == start
    processor.begin([7])
    assert allowed(processor, [7]) == start
    with pytest.raises(ParameterError, match=r"begin\(prompt\)"):
        allowed(processor, [8])
    processor.begin([8])
    assert allowed(processor, [8, *ids(model, "a")]) != start


def test_clones_go_their_own_ways(model, create, allowed):
    processor = create(model.vocab, regex="a[bc]d")
    begun = [1, *ids(model, "a")]
    middle = allowed(processor, [1]) and allowed(processor, begun)
    copy = processor.clone()
    b, c = ids(model, "b"), ids(model, "c")
    assert texts(model, allowed(processor, begun + b)) == {b"d"}
    assert allowed(copy, begun) == middle
    assert texts(model, allowed(copy, begun + c)) == {b"d"}
    assert allowed(copy, begun + c + ids(model, "d")) == ends(model)
    assert texts(model, allowed(processor, begun + b)) == {b"d"}


def test_a_text_that_leaves_the_grammar_is_an_error_until_a_new_one(model, create, allowed):
    processor = create(model.vocab, regex="abc")
    processor.begin([1])
    for _ in range(2):
        with pytest.raises(GrammarError, match="has left its grammar"):
            allowed(processor, [1, *ids(model, "xyz")])
    start = allowed(processor, [1])
    processor.begin([2])
    assert allowed(processor, [2]) == start


def test_an_end_before_the_end_is_an_error(model, create, allowed):
    processor = create(model.vocab, regex="abc")
    processor.begin([1])
    with pytest.raises(GrammarError):
        allowed(processor, [1, ends(model)[0]])


def test_limits_are_errors_and_not_free_text(model, create, allowed):
    processor = create(model.vocab, regex="x|b(a{1000}){1000}")
    processor.begin([1])
    tokens = [1, *ids(model, "b")]
    for _ in range(20):
        try:
            left = allowed(processor, tokens)
        except NativeError as error:
            assert "llguidance cannot go on" in str(error)  # noqa: PT017
            break
        assert len(left) == 1
        assert set(model.vocab.token_to_piece(left[0])) == set(b"a")
        tokens += left
    else:
        pytest.fail("no limit was hit")


def test_forbidden_logits_become_minus_infinity_and_others_stay(model, create):
    processor = create(model.vocab, regex="[ab]")
    logits = np.arange(model.vocab.n_tokens, dtype=np.float32)
    assert processor(np.array([1], np.intc), logits) is None
    kept = np.isfinite(logits)
    assert texts(model, np.flatnonzero(kept).tolist()) == {b"a", b"b"}
    assert (logits[kept] == np.flatnonzero(kept)).all()
    assert (logits[~kept] == -np.inf).all()


def test_a_closed_model_is_no_trap(allowed, create):
    short_lived = Model("smollm2", backend="cpu")
    vocab = short_lived.vocab
    processor = create(vocab, json_schema={"const": {"a longer name": "ünïcode"}})
    short_lived.close()
    copy = processor.clone()
    tokens = [1]
    while not set(left := allowed(copy, tokens)) & {0}:
        tokens.append(left[0])
    assert len(tokens) > 5


def test_models_are_not_kept_alive(create):
    short_lived = Model("smollm2", backend="cpu")
    vocab = weakref.ref(short_lived.vocab)
    processor = create(short_lived.vocab, regex="a")
    short_lived.close()
    del short_lived
    gc.collect()
    assert vocab() is None
    processor.begin([1])
