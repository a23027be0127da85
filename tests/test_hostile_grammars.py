"""Hostile grammars and triggers, in children whose memory and time are limited."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import write_model

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (6, 6))
import llamacffi
model = llamacffi.Model(sys.argv[1], backend="cpu", vocab_only=True)
given = sys.stdin.buffer.read().decode()
"""
PARSE = """
try:
    llamacffi.SamplerChain(model).add("grammar", grammar=given)
except llamacffi.errors.GrammarError:
    print("refused")
else:
    print("accepted")
print(*(int(l.split()[1]) // 1024 for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""
linux = pytest.mark.skipif(
    sys.platform != "linux", reason="limits and measures memory as Linux does"
)


def in_child(script: str, model_path: Path, given: str) -> list[str]:
    """The words that it printed; a bug here is the death of the whole process."""
    child = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", LIMITED + script, str(model_path)],
        input=given.encode(),
        capture_output=True,
        timeout=60,
    )
    told = child.stderr.decode()[-300:]
    assert child.returncode == 0, f"died with {child.returncode} (-9: too slow): {told}"
    assert not child.stderr
    return child.stdout.decode().split()


@linux
@pytest.mark.parametrize(
    ("grammar", "answer"),
    [
        ('root ::= "a"{5,2}', "refused"),
        ('root ::= "a"{1,99999999999999999999}', "refused"),
        ('root ::= "a"{2000000000}', "refused"),
        ('root ::= "a"{0,2000000000} "b"', "accepted"),
        ("root ::= " + "(" * 20_000, "refused"),
        ("root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000, "refused"),
    ],
    ids=["reversed", "overflow", "many", "unbounded", "open", "deep"],
)
def test_grammars_that_would_eat_the_memory(model_path: Path, grammar: str, answer: str) -> None:
    outcome, megabytes = in_child(PARSE, model_path, grammar)
    assert outcome == answer
    assert int(megabytes) < 900  # the library and the mapped model are most of it


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("child") / "m.gguf", "gpt2")


def chained(count: int, rule: str) -> str:
    rules = "".join(f"r{i} ::= {rule.format(i + 1)}\n" for i in range(count))
    return f'root ::= r0\n{rules}r{count} ::= "a"'


HOSTILE = {
    "reversed behind a comment that ends with CR": 'b ::= "x" # c\rroot ::= "a"{5,2}',
    "reversed around a comment": 'root ::= ("a"{5 #\n,2})',
    "deep behind a comment that ends with CR": 'b ::= "x" # c\rroot ::= ' + "(" * 200_000,
    "a long literal, often": 'root ::= "' + "a" * 1_000_000 + '"{2000}',
    "many repetitions": "root ::= " + '"a"{0,1999} ' * 5000,
    "a long chain of rules": chained(150_000, "r{0}"),
    "rules that double": chained(40, 'r{0} | r{0} "b"'),
    "left recursion behind spaces": 'root ::= ws root "x" | "y"\nws ::= " "*',
    "left recursion behind an empty rule": 'root ::= a root "x" | "y"\na ::= b\nb ::= ""',
    "nothing to begin with": 'root ::= e root\ne ::= f\nf ::= ""',
}


@linux
@pytest.mark.parametrize("grammar", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_grammars_are_refused(tiny_path: Path, grammar: str) -> None:
    outcome, megabytes = in_child(PARSE, tiny_path, grammar)
    assert outcome == "refused"
    assert int(megabytes) < 500


@linux
@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= (("a"*)*)*', 'root ::= ("a"|"a")* "b"', chained(1_500, "r{0}"),
        "root ::= " + " | ".join(f'"a{number}"' for number in range(4_000)),
        "root ::= " + "(" * 127 + '"a"' + ")" * 127, 'root ::= [a] "a"{1900} | "a" root',
    ],
    ids=["stars", "ambiguous", "chain", "alternatives", "nested", "repeated"],
)  # fmt: skip
def test_large_grammars_are_accepted(tiny_path: Path, grammar: str) -> None:
    outcome, megabytes = in_child(PARSE, tiny_path, grammar)
    assert outcome == "accepted"
    assert int(megabytes) < 500


WRITE = """
grammar, length = given.split("\\0")
chain = llamacffi.SamplerChain(model).add("grammar", grammar=grammar)
token, = model.vocab.tokenize("a", add_special=False)
try:
    for _ in range(int(length)):
        chain.accept(token)
    print("accepted")
except llamacffi.errors.LlamaCffiError:
    print("refused")
print(*(int(l.split()[1]) // 1024 for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""


@linux
@pytest.mark.parametrize(
    ("grammar", "length", "answers"),
    [
        ('root ::= (("a"*)*)*', 5000, {"accepted"}),
        ('root ::= ("a"|"a")* "b"', 5000, {"accepted"}),
        ('root ::= "a" root "b" | "c"', 3000, {"accepted"}),
        ("root ::= x x x x x x\nx ::= [a]*", 5000, {"accepted"}),
        ('root ::= ("a"{0,40}){0,40}', 30, {"accepted", "refused"}),
        # Twice as many stacks with each character.
        ('root ::= "a" root "y" | "a" root "z" | "c"', 100, {"accepted", "refused"}),
        ('root ::= ("a" root)? ("a" root)? "x"', 100, {"accepted", "refused"}),
    ],
)
def test_hostile_grammars_while_writing(
    tiny_path: Path, grammar: str, length: int, answers: set[str]
) -> None:
    outcome, megabytes = in_child(WRITE, tiny_path, f"{grammar}\0{length}")
    assert outcome in answers
    assert int(megabytes) < 500


TRIGGER = """
import threading
pattern, length, kibibytes = given.split("\\0")
threading.stack_size(int(kibibytes) << 10)
token, = model.vocab.tokenize("a", add_special=False)
def write():
    try:
        chain = llamacffi.SamplerChain(model)
        chain.add("grammar", grammar="root ::= [^x]*", trigger_patterns=[pattern])
        for _ in range(int(length)):
            chain.accept(token)
        print("accepted")
    except llamacffi.errors.LlamaCffiError:
        print("refused")
thread = threading.Thread(target=write)
thread.start()
thread.join()
"""


@linux
@pytest.mark.parametrize(
    ("pattern", "length", "kibibytes"),
    [
        ("<tool>", 5000, 256),
        (r"^[\s\S]*(<tool>)$", 4000, 1024),  # upstream's regex recurses per character
        (r"^(.|\n)*<tool>", 2000, 256),
        ("(a|b)*c", 800, 256),
        (r"[\s\S]*?(<tool>)", 2000, 256),
        ("(" * 20_000 + ")" * 20_000, 1, 8192),
        ("<" + "a" * 50_000 + ">", 10, 8192),
    ],
    ids=["plain", "anchored", "dots", "either", "lazy", "parentheses", "long"],
)
def test_hostile_trigger_patterns(
    tiny_path: Path, pattern: str, length: int, kibibytes: int
) -> None:
    (outcome,) = in_child(TRIGGER, tiny_path, f"{pattern}\0{length}\0{kibibytes}")
    assert outcome in ("accepted", "refused")


MUTATE = """
import random
errors = 0
for seed in range(250):
    rng = random.Random(seed)
    text = list(given)
    for _ in range(rng.randint(1, 4)):
        start, stop = sorted(rng.randrange(len(text)) for _ in "ab")
        stop = min(stop, start + 8)
        place = rng.randrange(len(text))
        kind = rng.randrange(3)
        if kind == 0:
            del text[start:stop]
        elif kind == 1:
            text[place:place] = text[start:stop]
        else:
            text[place] = rng.choice('"[](){}|*+?,-<>!.# abr5\\\\\\n\\r')
        text = text or ["x"]
    try:
        llamacffi.SamplerChain(model).add("grammar", grammar="".join(text))
    except llamacffi.errors.GrammarError:
        errors += 1
print(errors)
"""
JSON = r"""
root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


@linux
def test_mutated_recursive_grammars(tiny_path: Path) -> None:
    (errors,) = in_child(MUTATE, tiny_path, JSON)
    assert 50 < int(errors) < 250
