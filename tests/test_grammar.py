"""Grammars: what they allow, beside which chains, where their text is wrong, and hostile ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import llamacffi
from llamacffi import Context, Grammar, Llama, Model, NativeNode, SamplerChain, SamplingParams
from llamacffi.errors import GrammarError, LlamaCffiError, ParameterError, SamplingError
from tests.tiny_models import write_model

INF = math.inf
PROMPT = "Once upon a time there was a"
BAD_GRAMMARS = [
    "", "   ", "root", "root ::= (", 'root ::= "a', "root ::= foo", "foo ::= [a]",
    "root ::= [z-", "root ::= root", 'root ::= root "a" | "b"', 'root ::= "\0"',
    "{}", "root ::= \x80\xff", 'root ::= "\\x"', "root ::= *", "a" * 10_000,
]  # fmt: skip


@pytest.fixture
def decoded(context: Context) -> Context:
    context.decode_tokens(context.model.vocab.tokenize(PROMPT))
    return context


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """271 tokens: each byte, and a few longer pieces."""
    with Model(write_model(tmp_path_factory.mktemp("tiny") / "m.gguf", "gpt2")) as loaded:
        yield loaded


@pytest.fixture
def output(tiny: Model) -> Iterator[Context]:
    """A context whose logits the tests overwrite."""
    with tiny.context(n_ctx=32, n_threads=1) as made:
        made.decode_tokens([5])
        yield made


def text_of(llama: Llama, **parameters: Any) -> str:
    parameters = {"max_tokens": 6, **parameters}
    result = llama.create_completion(PROMPT, **parameters)
    assert isinstance(result, dict)
    return str(result["choices"][0]["text"])


def node_of(model: Model, grammar: str, **parameters: Any) -> NativeNode:
    node = llamacffi.samplers()["grammar"].create(model.vocab, grammar=grammar, **parameters)
    assert isinstance(node, NativeNode)
    return node


def token_of(model: Model, text: str) -> int:
    (token,) = model.vocab.tokenize(text, add_special=False)
    return token


# -- what they allow -------------------------------------------------------------------------------


@pytest.mark.parametrize("grammar", BAD_GRAMMARS)
def test_malformed_grammars(llama: Llama, grammar: str) -> None:
    with pytest.raises(GrammarError):
        SamplerChain(llama.model).add("grammar", grammar=grammar)
    with pytest.raises(GrammarError):
        text_of(llama, grammar=grammar)


def test_a_grammar_without_its_root(model: Model) -> None:
    with pytest.raises(GrammarError, match="start"):
        SamplerChain(model).add("grammar", grammar='root ::= "a"', root="start")


@pytest.mark.parametrize(
    ("grammar", "allowed"),
    [
        ('root ::= "yes" | "no"', {"yes", "no"}),
        ('root ::= " " [0-9] [0-9] "%"', {f" {n:02}%" for n in range(100)}),
        ('root ::= "🦙é"', {"🦙é"}),
    ],
)
@pytest.mark.parametrize("parameters", [{"temperature": 0}, {"temperature": 2.0, "seed": 3}])
def test_a_grammar_restricts_the_text(
    llama: Llama, grammar: str, allowed: set[str], parameters: dict[str, Any]
) -> None:
    assert text_of(llama, grammar=grammar, max_tokens=20, **parameters) in allowed


def test_a_grammar_starts_anew_with_each_call(llama: Llama) -> None:
    grammar = 'root ::= "a" "b"'
    assert [text_of(llama, grammar=grammar, max_tokens=9) for _ in range(3)] == ["ab"] * 3


def test_a_grammar_with_bias_and_processor(llama: Llama) -> None:
    vocab = llama.model.vocab
    first = {vocab.tokenize("yes")[0], vocab.tokenize("y")[0], vocab.tokenize("ye")[0]}
    text = text_of(
        llama,
        grammar='root ::= "yes" | "no"',
        logit_bias=dict.fromkeys(first, -INF),
        logits_processor=lambda ids, logits: None,
        max_tokens=5,
    )
    assert text == "no"


def test_accepting_against_the_grammar_is_an_error(model: Model, decoded: Context) -> None:
    chain = SamplerChain(model, [("grammar", {"grammar": 'root ::= "a"'}), "greedy"])
    with pytest.raises(LlamaCffiError):
        chain.accept(model.vocab.tokenize(" zebra")[0])
    assert SamplerChain(model, ["greedy"]).sample(decoded) >= 0


def test_a_file_and_a_string_are_the_same(tmp_path: Path, llama: Llama) -> None:
    path = tmp_path / "yes.gbnf"
    path.write_bytes('root ::= ("é"\r\n  | "è")\r\n'.encode())
    given: list[Any] = [path, Grammar.from_file(path), Grammar.from_string('root ::= "é" | "è"')]
    assert len({text_of(llama, grammar=grammar, temperature=0) for grammar in given}) == 1


def test_a_file_that_begins_with_a_byte_order_mark(tmp_path: Path, tiny: Model) -> None:
    path = tmp_path / "notepad.gbnf"
    path.write_text('root ::= "a"', encoding="utf-8-sig")
    assert len(SamplerChain(tiny).add("grammar", grammar=path)) == 1


def test_files_that_are_no_grammars(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Grammar.from_file(tmp_path / "none")
    path = tmp_path / "latin.gbnf"
    path.write_bytes(b'root ::= "\xe9"')
    with pytest.raises(GrammarError, match="UTF-8"):
        Grammar.from_file(path)
    path.write_bytes(b"#" * (4 * 2**20 + 1))
    with pytest.raises(GrammarError, match="bytes"):
        Grammar.from_file(path)


def test_two_grammars_hold_together(tiny: Model, output: Context) -> None:
    chain = SamplerChain(tiny, ["greedy"])
    chain.add("grammar", grammar="root ::= [abc]+").add("grammar", grammar="root ::= [bcd]+")
    logits = output.logits()
    for wished, wanted in (("a", "b"), ("d", "c"), ("c", "c")):
        logits[:] = 0
        logits[token_of(tiny, wished)] = 9
        logits[token_of(tiny, wanted)] += 5
        assert chain.sample(output) == token_of(tiny, wanted)


def test_a_copy_has_the_place_in_the_grammar(tiny: Model, output: Context) -> None:
    chain = SamplerChain(tiny, [("grammar", {"grammar": 'root ::= "abcd"'}), "greedy"])
    output.logits()[:] = 0
    a, b, c, d = (token_of(tiny, letter) for letter in "abcd")
    assert [chain.sample(output), chain.sample(output)] == [a, b]
    copies = [chain.clone(), chain.with_seed(5)]
    assert chain.sample(output) == c
    for copy in copies:
        assert [copy.sample(output), copy.sample(output)] == [c, d]
    assert chain.sample(output) == d
    chain.reset()
    assert chain.sample(output) == a
    chain.close()
    copies[0].reset()
    assert copies[0].sample(output) == a


def test_an_end_comes_when_the_grammar_is_at_its_end(tiny: Model, output: Context) -> None:
    chain = SamplerChain(tiny, [("grammar", {"grammar": 'root ::= "a"'}), "greedy"])
    output.logits()[:] = 0
    assert chain.sample(output) == token_of(tiny, "a")
    assert tiny.vocab.is_eog(chain.sample(output))


@pytest.mark.parametrize("more", [[], [("top_k", {"k": 5})], ["typical"]])
def test_all_that_the_grammar_allows_is_banned(
    tiny: Model, output: Context, more: list[Any]
) -> None:
    a = token_of(tiny, "a")
    chain = SamplerChain(tiny, [*more, ("dist", {"seed": 1})])
    chain.add("grammar", grammar='root ::= "ab"').add("logit_bias", bias={a: -INF})
    output.logits()[:] = 0
    for _ in range(2):
        with pytest.raises(SamplingError, match="grammar"):
            chain.sample(output)
    assert SamplerChain(tiny, ["greedy"]).sample(output) == 0, "the first of equals"


# -- beside a chain: the same as masking everything first -----------------------------------------

ROW = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def applied(model: Model, sampler: Any, rows: NDArray[Any]) -> tuple[NDArray[Any], int | None]:
    """What a native sampler makes of candidates, and which it selects."""
    library = model.library
    data = library.ffi.from_buffer("llama_token_data[]", rows, require_writable=True)
    array = library.ffi.new("llama_token_data_array *", (data, len(rows), -1, False))
    error = library.new_error()
    assert library.lib.llamacffi_sampler_apply(sampler._handle.pointer, array, error)
    left = np.frombuffer(library.ffi.buffer(array.data, array.size * ROW.itemsize), ROW).copy()
    return left, int(left["id"][array.selected]) if array.selected >= 0 else None


def candidates(logits: NDArray[np.float32]) -> NDArray[Any]:
    rows = np.zeros(logits.size, ROW)
    rows["id"], rows["logit"] = np.arange(logits.size), logits
    return rows


class Reference:
    """Asks the grammar about the whole vocabulary before the chain sees it."""

    def __init__(self, model: Model, samplers: Sequence[Any], grammar: str) -> None:
        self.model = model
        self.plain = SamplerChain(model, samplers)
        self.node = node_of(model, grammar)
        self.refusals = 0

    def pick(self, logits: NDArray[np.float32]) -> int:
        left, _ = applied(self.model, self.node, candidates(np.zeros_like(logits)))
        allowed = left["logit"][np.argsort(left["id"])] == 0
        _, token = applied(self.model, self.plain, candidates(logits))
        assert token is not None
        if not allowed[token]:
            self.refusals += 1
            _, token = applied(self.model, self.plain, candidates(logits)[allowed])
            assert token is not None
        self.plain.accept(token)
        library, error = self.model.library, self.model.library.new_error()
        library.lib.llamacffi_sampler_accept(self.node._handle.pointer, token, error)
        assert error.kind == 0
        return token


BIAS = ("logit_bias", {"bias": {65: -INF, 66: 3.0, 97: -4.0, 100: 2.5}})
SEED = {"seed": 11}
CHAINS: list[list[Any]] = [
    ["greedy"],
    [("penalties", {"repeat": 1.5, "presence": 2.0}), "greedy"],
    [BIAS, "greedy"],
    [("top_k", {"k": 1}), ("dist", SEED)],
    [("top_k", {"k": 5}), ("dist", SEED)],
    [("top_k", {"k": 40}), ("top_p", {"p": 0.9}), "temperature", ("dist", SEED)],
    [("top_k", {"k": 0}), ("dist", SEED)],
    [("top_k", {"k": 1000}), ("dist", SEED)],
    [("dist", SEED)],
    [BIAS, ("penalties", {"presence": 5.0}), ("top_k", {"k": 3}), ("dist", SEED)],
    [("dry", {"allowed_length": 1}), ("top_k", {"k": 2}), ("dist", SEED)],
    [("top_k", {"k": 20}), ("penalties", {"presence": 5.0}), ("dist", SEED)],
    [("top_n_sigma", {"n": 1.0}), ("top_k", {"k": 5}), ("dist", SEED)],
    [("typical", {"p": 0.3}), ("top_k", {"k": 5}), ("dist", SEED)],
    [("temperature", {"temperature": 2.0}), ("top_k", {"k": 4}), ("dist", SEED)],
    [("min_p", {"p": 0.2}), "greedy"],
    [("xtc", {"probability": 0.7, "threshold": 0.05, **SEED}), ("dist", SEED)],
    [("top_k", {"k": 30}), ("xtc", {"probability": 1.0, **SEED}), ("dist", SEED)],
    [("mirostat", SEED)],
    [("mirostat_v2", SEED)],
    [("top_k", {"k": 10}), ("adaptive_p", SEED)],
]
RULES = [
    'root ::= [a-f]+ ("x" | "y") root | "the" .*',
    "root ::= [^a-zA-Z]+ | [A-C] root",
    'root ::= "q" root | "z"',
    "root ::= .*",
]


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("samplers", CHAINS, ids=str)
def test_the_pick_is_that_of_a_masked_vocabulary(
    tiny: Model, output: Context, samplers: list[Any], rules: str
) -> None:
    random = np.random.default_rng(len(rules))
    reference = Reference(tiny, samplers, rules)
    chain = SamplerChain(tiny, [("grammar", {"grammar": rules}), *samplers])
    logits = output.logits()
    for spread in (0.1, 1, 3, 10, 30, 3, 1, 0.1):
        logits[:] = random.normal(0, spread, logits.size)
        wanted = reference.pick(logits)
        assert chain.sample(output) == wanted
        if tiny.vocab.is_eog(wanted):
            break
    assert reference.refusals or rules == "root ::= .*"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0.01, 50),
    samplers=st.sampled_from(CHAINS),
    rules=st.sampled_from(RULES),
    banned=st.sets(st.integers(0, 270), max_size=60),
)
def test_the_pick_of_any_logits(
    tiny: Model, seed: int, spread: float, samplers: list[Any], rules: str, banned: set[int]
) -> None:
    if samplers[0][0] in ("typical", "mirostat", "mirostat_v2") or rules == RULES[2]:
        banned = set()  # upstream's entropy is NaN with a -inf; and "q" or "z" could be banned
    with tiny.context(n_ctx=16, n_threads=1) as context:
        context.decode_tokens([5])
        logits = context.logits()
        logits[:] = np.random.default_rng(seed).normal(0, spread, logits.size)
        logits[list(banned)] = -INF
        reference = Reference(tiny, samplers, rules)
        chain = SamplerChain(tiny, [*samplers, ("grammar", {"grammar": rules})])
        assert chain.sample(context) == reference.pick(logits)


def test_the_best_allowed_token_may_be_the_worst_of_all(tiny: Model, output: Context) -> None:
    """Behind every block of candidates that the grammar is asked about."""
    logits = output.logits()
    for letter in "qz":
        for samplers in ([("top_k", {"k": 1}), "dist"], ["greedy"]):
            logits[:] = np.arange(logits.size)
            logits[token_of(tiny, letter)] = -1000
            grammar = {"grammar": f'root ::= "{letter}"'}
            chain = SamplerChain(tiny, [("grammar", grammar), *samplers])
            assert chain.sample(output) == token_of(tiny, letter)


def test_the_pick_of_the_real_model(model: Model, decoded: Context) -> None:
    rules = 'root ::= " " [a-z]+ [,.] root | " " [A-Z] [a-z]* "!"'
    reference = Reference(model, [("top_k", {"k": 40}), ("dist", SEED)], rules)
    chain = SamplerChain(model, [("top_k", {"k": 40}), ("dist", SEED)])
    chain.add("grammar", grammar=rules)
    position = decoded.memory.position_max(0) + 1
    for step in range(10):
        token = chain.sample(decoded)
        assert token == reference.pick(decoded.logits()), f"token {step}"
        if model.vocab.is_eog(token):
            break
        decoded.decode_token(token, position + step)
    assert reference.refusals > 1


# -- where a text is wrong ------------------------------------------------------------------------

WRONG = [
    ("root", 1, 5, "::="),
    ('root := "a"', 1, 6, "::="),
    ('root ::= "a" %', 1, 14, "newline"),
    ('root ::= "é" %', 1, 14, "newline"),
    ('root ::= "日本🦙" "\\q"', 1, 17, "escape"),
    ('root ::= "\\x4"', 1, 13, "hex"),
    ('root ::= "a" )', 1, 14, "newline"),
    ('root ::= "a"\nx ::= %\n', 2, 7, "newline"),
    ('root ::= "a"\r\nx ::= %\r\n', 2, 7, "newline"),
    ('root ::= "a"\rx ::= %', 2, 7, "newline"),
    ('# é\n\n  root ::= "a"\n # b\n x ::= %', 5, 8, "newline"),
    ('root ::= "a"\nx ::= ("b" | "c"', 2, 17, "')'"),
    ("root ::= (", 1, 11, "')'"),
    ('root ::= "a', 1, 12, "end of input"),
    ("root ::= [a-", 1, 13, "end of input"),
    ('root ::= "a"{', 1, 14, "int"),
    ('root ::= "a"{2,', 1, 16, "'}'"),
    ('root ::= "a"{2;3}', 1, 15, "','"),
    ('root ::= * "a"', 1, 10, "preceding item"),
    ('x ::= "a"\nroot ::= "a" foo', 2, 14, "'foo'"),
    ('root ::= o "x"', 1, 10, "'o'"),
    ('# foo is missing\nroot ::= "foo" foo', 2, 16, "'foo'"),
    ('foo-bar ::= "a"\nroot ::= foo-bar foo', 2, 18, "'foo'"),
    ('start ::= "a"', 1, 1, "'root'"),
    ("# only a comment", 1, 1, "'root'"),
    ('root ::= "a"\nx ::= "a"{3001}', 2, None, "repetitions"),
    ('root ::= "a"\nx ::= "a"{99999999999999999999}', 2, None, "repetitions"),
    ('root ::= "a"\nx ::= <[99999999999999999999]>', 2, None, "token"),
    ('root ::= "a"\nx ::= <no such token>', 2, None, "token"),
    ('root ::= "a"{5,2}', 1, None, "second number"),
    ('root ::= "a"\nx ::= x "b" | "c"', 2, None, "left recursion"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "column", "words"), WRONG)
def test_the_place_of_an_error(
    tiny: Model,
    text: str,
    line: int,
    column: int | None,
    words: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(GrammarError) as caught:
        SamplerChain(tiny).add("grammar", grammar=text)
    message = str(caught.value)
    assert words in message
    assert f"line {line}" in message.replace("Line", "line")
    if column is not None:
        assert f"line {line}, column {column}," in message
    assert capfd.readouterr() == ("", ""), "llama.cpp printed something"


@pytest.mark.parametrize(
    "given",
    [
        {"grammar": 'root ::= "\ud800"'},
        {"grammar": 'root ::= "a"', "root": "\ud800"},
        {"grammar": 'root ::= "a"', "root": "root\0x"},
        {"grammar": 'root ::= "a"', "root": None},
        {"grammar": Grammar(5)},  # type: ignore[arg-type]
        {"grammar": Grammar(b'root ::= "a"')},  # type: ignore[arg-type]
        {"grammar": b'root ::= "a"'},
        {"grammar": None},
        {"grammar": Grammar('root ::= "a"', root="nope")},
    ],
    ids=ascii,
)
def test_what_is_no_grammar(tiny: Model, given: dict[str, Any]) -> None:
    with pytest.raises(GrammarError):
        SamplerChain(tiny).add("grammar", **given)


SOUND = (
    'root ::= alpha | beta{2,5} "é" # e\nalpha ::= [a-z\\]]+ ("x" | beta?)*\nbeta ::= "\\x41\\n" .',
    'root ::= <[5]> !<[6]> [^"]* alpha\r\nalpha ::= ("b" ("c" | [0-9-]){1,3})+\r\n',
)


@settings(max_examples=150, deadline=None)
@given(
    sound=st.sampled_from(SOUND),
    edits=st.lists(
        st.tuples(
            st.integers(0, 200), st.integers(0, 3), st.text(alphabet='"[](){}|*+?,-\\<>!.#\n\r5 xé')
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_mutated_grammars(tiny: Model, sound: str, edits: list[tuple[int, int, str]]) -> None:
    """Those rules cannot come to call themselves, which is for the child processes below."""
    text = sound
    for place, cut, insert in edits:
        place %= len(text) + 1
        text = text[:place] + insert[:4] + text[place + cut :]
    with suppress(GrammarError):
        node = node_of(tiny, text)
        left, _ = applied(tiny, node, candidates(np.zeros(len(tiny.vocab), np.float32)))
        assert len(left) == len(tiny.vocab)


# -- lazy grammars --------------------------------------------------------------------------------

LAZY: list[dict[str, Any]] = [
    {"trigger_words": ["<t>"]},
    {"trigger_patterns": ["<t>"]},
    {"trigger_patterns": ["x*(<t>)"]},
    {"trigger_patterns": ["no", "<[a-z]>"]},
]


def walk(chain: SamplerChain, output: Context, model: Model, wishes: str) -> str:
    """The text that comes out where single characters are wished for."""
    text = ""
    for wish in wishes:
        output.logits()[:] = 0
        output.logits()[token_of(model, wish)] = 9
        text += model.vocab.detokenize([chain.sample(output)])
    return text


@pytest.mark.parametrize("triggers", LAZY)
def test_a_lazy_grammar_waits_for_its_trigger(
    tiny: Model, output: Context, triggers: dict[str, Any]
) -> None:
    grammar = {"grammar": 'root ::= "<t>" [0-3] "!"', **triggers}
    chain = SamplerChain(tiny, [("grammar", grammar), "greedy"])
    assert walk(chain, output, tiny, "abx<t") == "abx<t"
    for copy in (chain.clone(), chain.with_seed(1)):
        assert walk(copy, output, tiny, ">3?") == ">3!"
    assert walk(chain, output, tiny, ">2?") == ">2!"
    chain.reset()
    assert walk(chain, output, tiny, "ab9?<t>1x") == "ab9?<t>1!"


def test_a_trigger_token(tiny: Model, output: Context) -> None:
    star = token_of(tiny, "*")
    grammar = {"grammar": 'root ::= "*" "a"', "trigger_tokens": [star]}
    chain = SamplerChain(tiny, [("grammar", grammar), "greedy"])
    assert walk(chain, output, tiny, "bb*b") == "bb*a"


def test_triggers_of_a_grammar_object_and_of_the_call(tiny: Model, output: Context) -> None:
    rules = Grammar('root ::= [<[] "a"', trigger_words=("<",))
    chain = SamplerChain(tiny, [("grammar", {"grammar": rules, "trigger_words": ["["]}), "greedy"])
    for mark in "<[":
        assert walk(chain, output, tiny, f"bb{mark}b") == f"bb{mark}a"
        chain.reset()
    params = SamplingParams(grammar=rules, temperature=0)
    assert walk(params.chain(tiny), output, tiny, "bb<b") == "bb<a"


@pytest.mark.parametrize("word", ["a.c", "(x", "[]", "a|b", "$1^", "\\d", "{2}", "é*", "+?"])
def test_a_trigger_word_is_plain_text(tiny: Model, output: Context, word: str) -> None:
    grammar = {"grammar": "root ::= " + '"!"', "trigger_words": [word]}
    chain = SamplerChain(tiny, [("grammar", grammar), "greedy"])
    for byte in tiny.vocab.tokenize("abcaxcx2d12[", add_special=False):
        chain.accept(byte)
    with pytest.raises(LlamaCffiError):  # the word itself is nothing that the grammar allows
        for byte in tiny.vocab.tokenize(word, add_special=False):
            chain.accept(byte)


def test_a_token_that_goes_on_past_the_trigger(tiny: Model, output: Context) -> None:
    """The token "the" completes the trigger "th" and breaks the grammar at once: it is refused, or
    an error; but what comes after a reset is sound."""
    grammar = {"grammar": 'root ::= "th" "x"', "trigger_words": ["th"]}
    chain = SamplerChain(tiny, [("grammar", grammar), "greedy"])
    output.logits()[:] = 0
    output.logits()[token_of(tiny, "the")] = 9
    for _ in range(3):
        with suppress(LlamaCffiError):
            chain.sample(output)
    chain.reset()
    assert walk(chain, output, tiny, "ab") == "ab"


@pytest.mark.parametrize(
    "given",
    [
        {"trigger_patterns": ["("]},
        {"trigger_patterns": ["a{2,1}"]},
        {"trigger_patterns": [""]},
        {"trigger_patterns": ["\ud800"]},
        {"trigger_patterns": [5]},
        {"trigger_patterns": "<tool>"},
        {"trigger_words": "<tool>"},
        {"trigger_words": [""]},
        {"trigger_tokens": [-1]},
        {"trigger_tokens": [10**9]},
    ],
    ids=ascii,
)
def test_refused_triggers(tiny: Model, given: dict[str, Any]) -> None:
    with pytest.raises((LlamaCffiError, TypeError)):
        SamplerChain(tiny).add("grammar", grammar='root ::= "a"', **given)


def test_a_refused_pattern_is_named(tiny: Model) -> None:
    with pytest.raises(ParameterError, match="trigger_patterns"):
        SamplerChain(tiny).add("grammar", grammar='root ::= "a"', trigger_patterns=["(x"])


# -- tokens in grammars ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ['"t" !<[5]>', '"t" <[{the}]>', '"t" ("h" | <[{the}]>)'])
def test_a_token_that_spans_a_character_and_a_token_rule(
    tiny: Model, output: Context, rule: str
) -> None:
    """What the grammar allows when asked, it must take when told."""
    the = token_of(tiny, "the")
    grammar = {"grammar": "root ::= " + rule.replace("{the}", str(the))}
    chain = SamplerChain(tiny, [("grammar", grammar), "greedy"])
    output.logits()[:] = 0
    output.logits()[the] = 9
    assert chain.sample(output) == token_of(tiny, "t")
