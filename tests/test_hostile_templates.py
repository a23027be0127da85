"""Hostile chat templates, in children: a model's file may hold any text as its template."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import pytest

from llamacffi import Model
from llamacffi.errors import TemplateError
from llamacffi.templates import JinjaTemplate, choose_template
from tests.hostile_children import Outcome, in_children, linux
from tests.tiny_models import write_model

RENDER = """
from llamacffi.templates import JinjaTemplate
USER = {"role": "user", "content": "Hi {} there"}
def run(source):
    prompt = JinjaTemplate("hostile", source).render([USER])
    return prompt.text[:1000]
run("{{ messages[0].content }}")
"""
DEEP = 3000
LONG = 200_000


def late(source: str) -> str:
    """The template, doing nothing while it is being analysed."""
    return (
        "{% if messages|length == 1 and messages[0].content == 'Hi {} there' %}"
        + source
        + "{% endif %}"
    )


def repeated(times: int, source: str) -> str:
    return f"{{% for i in range({times}) %}}{source}{{% endfor %}}"


TEXT = "{% set ns = namespace(s='ab') %}"
LIST = "{% set a = [] %}"
BIG = "{% set x = '" + "x" * 10_000 + "' * 1000 %}"
MANY = (
    "{% set ns = namespace(a=['"
    + "x" * 10_000
    + "' * 100]) %}"
    + repeated(15, "{% set ns.a = ns.a + ns.a %}")
)
REFUSED = {
    # loops
    "endless range": repeated(1_000_000_000, "x"),
    "empty nested ranges": repeated(100_000, repeated(100_000, "")),
    "range past the last integer": "{% for i in range(9223372036854775800, "
    "9223372036854775807, 5) %}x{% endfor %}",
    "range without a step": "{{ range(1, 5, 0) }}",
    "nothing, repeated": "{{ ('' * 0) * 999999999999999999 }}",
    "no text, repeated": "{% set x %}{% endset %}{{ x * 999999999999999999 }}",
    # exponential texts
    "doubled": TEXT + repeated(100, "{% set ns.s = ns.s + ns.s %}"),
    "doubled with ~": TEXT + repeated(100, "{% set ns.s = ns.s ~ ns.s %}"),
    "multiplied": "{{ 'x' * 99999999999 }}",
    "replaced nothing": TEXT + repeated(60, "{% set ns.s = ns.s|replace('', ns.s) %}"),
    "joined": MANY + "{{ ns.a|join(', ')|length }}",
    "written": MANY + "{{ ns.a|string|length }}",
    "as JSON": MANY + "{{ ns.a|tojson|length }}",
    "indented": "{{ 'a'|indent(9223372036854775807) }}",
    "indented JSON": "{{ [[1]]|tojson(indent=2147483647) }}",
    "formatted": BIG + "{{ ('{}' * 1000).format(" + "x, " * 1000 + ") }}",
    "blocks doubled": "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    # much that is kept
    "texts kept": late(BIG + LIST + repeated(1000, "{% set _ = a.append(x ~ 'b') %}")),
    "upper texts kept": late(BIG + LIST + repeated(1000, "{% set _ = a.append(x|upper) %}")),
    "slices kept": "{% set ns = namespace(x=[1]) %}" + repeated(21, "{% set ns.x = ns.x + ns.x %}")
    + "{% set a = [] %}" + repeated(1000, "{% set _ = a.append(ns.x[:]) %}"),
    "sorted kept": "{% set ns = namespace(x=[1]) %}" + repeated(16, "{% set ns.x = ns.x + ns.x %}")
    + "{% set a = [] %}" + repeated(9000, "{% set _ = a.append(ns.x|reverse) %}"),
    # nesting
    "macro that calls itself": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "macros by turns": "{% macro f() %}{{ g() }}{% endmacro %}"
    "{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
    "callers": "{% macro f(x) %}{{ caller() }}{% endmacro %}"
    "{% macro g() %}{% call f(1) %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}",
    "parentheses": "{{ " + "(" * DEEP + "1" + ")" * DEEP + " }}",
    "open parentheses": "{{ " + "(" * LONG,
    "not": "{{ " + "not " * DEEP + "1 }}",
    "minus": "{{ " + "- " * DEEP + "1 }}",
    "lists": "{{ " + "[" * DEEP + "]" * DEEP + " }}",
    "dictionaries": "{{ " + "{1: " * DEEP + "1" + "}" * DEEP + " }}",
    "ifs": "{% if true %}" * DEEP + "x" + "{% endif %}" * DEEP,
    "fors": "{% for i in [1] %}" * DEEP + "x" + "{% endfor %}" * DEEP,
    "elifs": "{% if false %}" + "{% elif false %}" * DEEP + "x{% endif %}",
    "ternaries": "{{ " + "1 if false else " * DEEP + "2 }}",
    "calls in calls": "{{ " + "f(" * DEEP + ")" * DEEP + " }}",
    "calls of calls": "{{ f" + "()" * DEEP + " }}",
    "arguments of filters": "{{ 1" + "|default(1" * DEEP + ")" * DEEP + " }}",
    "indices": "{{ a" + "[a" * DEEP + "]" * DEEP + " }}",
    "filter blocks": "{% filter upper %}" * DEEP + "x" + "{% endfilter %}" * DEEP,
    "set blocks": "{% set x %}" * DEEP + "x" + "{% endset %}" * DEEP,
    # long chains nest as well
    "sum": "{{ 1" + "+1" * LONG + " }}",
    "sum behind elif": "{% if false %}{% elif 1" + "+1" * LONG + " %}{% endif %}",
    "ors": "{{ 0" + " or 0" * LONG + " }}",
    "filters": "{{ ''" + "|upper" * LONG + " }}",
    "members": "{{ a" + ".a" * LONG + " }}",
    "tests": "{{ 1" + " is number" * LONG + " }}",
    # values that hold themselves
    "list in itself": "{% set a = [] %}{% set _ = a.append(a) %}{{ a }}",
    "list in itself as JSON": "{% set a = [] %}{% set _ = a.append(a) %}{{ a|tojson }}",
    "list in itself as text": "{% set a = [] %}{% set _ = a.append([a]) %}{{ a|string }}",
    "list in its own key": "{% set a = [] %}{% set _ = a.append(a) %}{{ {(a,): 1} }}",
    "namespace in itself": "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns|tojson }}",
    "sorted while growing": "{% set a = [3, 2, 1] %}{{ a|sort(attribute=a.append(a)) }}",
    "deep tuple as a key": late("{% set ns = namespace(t=1) %}"
    + repeated(3000, "{% set ns.t = (ns.t,) %}") + "{{ {ns.t: 1}|length }}"),
    "deep tuples compared": late("{% set ns = namespace(t=1) %}"
    + repeated(3000, "{% set ns.t = (ns.t,) %}") + "{{ ns.t == ns.t }}"),
    "tuple with 2**60 items as a key": "{% set ns = namespace(t=1) %}"
    + repeated(60, "{% set ns.t = (ns.t, ns.t) %}") + "{{ {ns.t: 1}|length }}",
    # numbers
    "divisible by zero": "{{ 5 is divisibleby(0) }}",
    "giant number": "{{ 99999999999999999999999 }}",
    # out of place
    "break outside": "{% break %}",
    "continue in a macro": "{% macro f() %}{% continue %}{% endmacro %}{{ f() }}",
    "exception": "{{ raise_exception('no') }}",
    "long exception": "{{ raise_exception('" + "x" * 10_000 + "' * 3000) }}",
    "unknown filter": "{{ 1|system('id') }}",
    "half a character": "{{ 'é'[0] }}",
    "half a character of a content": "{{ ('é' ~ messages[0].content)[1:] }}",
    "long time": "{{ strftime_now('%Y' * 1000) }}",
    "wide time": "{{ strftime_now('%999999999Y') }}",
    "no time": "{{ strftime_now('') }}",
    # not closed
    **{
        f"unterminated {text}": text
        for text in (
            "{{", "{%", "{#", "{{ 'x", '{{ "x\\', "{{ (", "{{ [1,", "{{ {1:", "{{ a.", "{{ a[",
            "{{ a|", "{{ a is", "{{ f(", "{{ 'a' 'b'", "{{ not", "{{ -", "{{ 1 if",
            "{{ 1 if 2 else", "{{ a[1:", "{%- ", "{{- ", "{% wrong %}", "{% if",
            "{% if x %}", "{% if x %}{% elif",
            "{% if x %}{% else %}", "{% for", "{% for a", "{% for a in", "{% for a in b %}",
            "{% macro", "{% macro f(", "{% macro f() %}", "{% set", "{% set a",
            "{% set a =", "{% set a %}",
            "{% call", "{% call f() %}", "{% filter", "{% filter upper %}",
        )
    },
}  # fmt: skip
RENDERED = {
    "by minus one": ("{{ (-9223372036854775807 - 1) is divisibleby(-1) }}", "True"),
    "negative index": ("{{ [1, 2][-1] }}{{ [1][-5] }}{{ 'ab'[-9] }}", "2"),
    "huge steps": (
        "{{ [1, 2, 3][1:3:9223372036854775807] }}{{ [1, 2][::-9223372036854775807] }}", "22",
    ),
    "huge slices": ("{{ 'abc'[-9223372036854775807:9223372036854775807] }}", "abc"),
    "list compared with itself": ("{% set a = [] %}{% set _ = a.append(a) %}{{ a == a }}", "False"),
    "list that grows in its loop": (
        "{% set a = [1] %}{% for x in a %}{% set _ = a.append(1) %}{% endfor %}{{ a|length }}", "2",
    ),
    "attributes": (
        "{{ ''.__class__ }}{{ messages.__init__ }}{{ [].mro }}{{ raise_exception.__globals__ }}"
        "{{ namespace.__init__ }}{{ (''.join).__self__ }}{{ self }}{{ cycler }}{{ lipsum }}",
        None,
    ),
    "lines that end with CR": ("\r\n" * 100_000, None),
    "control characters": ("\x01\x1b[31m{{ '\x07' }}", "\x01\x1b[31m\x07"),
    "chain of keyword arguments": (
        late("{% set a = [] %}{% set _ = a.append(k=1) %}" + repeated(
            1000, "{% set _ = a.append(k=a.pop()) %}" * 15) + "done"), "done",
    ),
    "chain of lists": (
        late("{% set ns = namespace(a=1) %}" + repeated(1000, "{% set ns.a = [ns.a] %}" * 15)
        + "done"), "done",
    ),
    "chain of methods": (
        late("{% set ns = namespace(a=[]) %}"
        + repeated(1000, "{% set ns.a = [ns.a.append] %}" * 15) + "done"), "done",
    ),
    "chain of dictionaries": (
        late("{% set ns = namespace(a=1) %}" + repeated(1000, "{% set ns.a = {'a': ns.a} %}" * 10)
        + "done"), "done",
    ),
    "sorting what has no order": (
        "{% set ns = namespace(a=[]) %}"
        + repeated(500, "{% set _ = ns.a.append((i * 7919) % 2003) %}{% set _ = ns.a.append('x') %}"
        "{% set _ = ns.a.append([]) %}{% set _ = ns.a.append(((i * 7919) % 97)|string) %}")
        + "{{ ns.a|sort|length }}{{ ns.a|sort(reverse=true)|length }}", "20002000",
    ),
    "sorting what is no number": (
        "{% set big = namespace(x=10.0) %}" + repeated(400, "{% set big.x = big.x * 10 %}")
        + "{% set ns = namespace(a=[]) %}"
        + repeated(500, "{% set _ = ns.a.append((i * 7919) % 2003) %}"
        "{% set _ = ns.a.append(big.x - big.x) %}") + "{{ ns.a|sort|length }}", "1000",
    ),
}  # fmt: skip


@functools.cache
def outcomes(stack_kib: int) -> dict[str, Outcome]:
    cases = {**REFUSED, **{name: source for name, (source, _) in RENDERED.items()}}
    return in_children(RENDER, cases, stack_kib=stack_kib)


@linux
@pytest.mark.parametrize("name", REFUSED)
def test_hostile_templates_are_refused(name: str) -> None:
    outcome = outcomes(512)[name]  # the stack of other threads than the main one on macOS
    assert outcome.kind == "TemplateError", outcome.told
    assert outcome.megabytes < 1500
    assert len(outcome.told) < 20_000


@linux
@pytest.mark.parametrize("name", RENDERED)
def test_odd_templates_are_rendered(name: str) -> None:
    outcome, text = outcomes(512)[name], RENDERED[name][1]
    assert outcome.kind in ("ok", "TemplateError")
    if text is not None:
        assert outcome.told == text
    assert outcome.megabytes < 1500


def test_templates_that_are_no_text() -> None:
    with pytest.raises(TemplateError, match="NUL"):
        JinjaTemplate("x", "a\0b").render([{"role": "user", "content": "Hi"}])
    with pytest.raises(TemplateError, match="bytes"):
        JinjaTemplate("x", "a" * 2_000_000).capabilities()
    prompt = JinjaTemplate("x", "a\ud800b").render([{"role": "user", "content": "Hi"}])
    assert prompt.text == "a?b"


def test_a_cut_character_is_an_error_or_no_template() -> None:
    template = JinjaTemplate("x", "<{{ (messages[0].content ~ '')[0] }}{{ 'é'[1] }}>")
    prompt = template.render([{"role": "user", "content": "è"}])
    assert prompt.parts == (("<", True), ("é", False), (">", True))


@pytest.mark.parametrize("source", ["{% wrong %}", "{{ [", REFUSED["divisible by zero"]])
def test_as_a_models_own_template(tmp_path: Path, source: str) -> None:
    path = write_model(tmp_path / "tiny.gguf", chat_template=source)
    with (
        Model(path, backend="cpu", vocab_only=True) as loaded,
        pytest.raises(TemplateError),
    ):
        choose_template(loaded.metadata).render([{"role": "user", "content": "Hi"}])


LEAK = """
from llamacffi.templates import JinjaTemplate
template = None
def run(source):
    global template
    template = template or JinjaTemplate("hostile", source)
    for _ in range(40):
        template.render([{"role": "user", "content": "Hi {} there"}])
"""


@linux
def test_values_that_hold_themselves_are_released() -> None:
    text = "'" + "x" * 1000 + "' * 2000"
    source = late(
        "{% set a = [] %}{% set _ = a.append(a) %}{% set _ = a.append(" + text + ") %}"
        "{% set ns = namespace(x=" + text + ") %}{% set ns.me = ns %}"
    )
    outcomes = in_children(LEAK, {"first": source, "again": source})
    assert outcomes["again"].kind == "ok"
    assert outcomes["again"].megabytes < outcomes["first"].megabytes + 20


def mutated(source: str, chance: random.Random) -> str:
    text = list(source)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(text))
        stop = min(len(text), start + chance.randint(1, 40))
        kind = chance.randrange(4)
        if kind == 0:
            del text[start:stop]
        elif kind == 1:
            place = chance.randrange(len(text))
            text[place:place] = text[start:stop]
        elif kind == 2:
            text[start] = chance.choice("{}%#()[]'\"|.,:=+-*/~ \\\n0aé")
        else:
            text = text[:start]
        text = text or ["x"]
    return "".join(text)


FUZZ = """
from llamacffi.errors import TemplateError
from llamacffi.templates import choose_template
USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {
    "type": "object", "properties": {"x": {"type": "string"}}}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "call12345", "function": {"name": "f", "arguments": "{\\"x\\": \\"y\\"}"}}]}
RESULT = {"role": "tool", "tool_call_id": "call12345", "content": "z"}
def run(source):
    told = []
    for messages, tools in (([USER], []), ([USER, CALL, RESULT], [TOOL])):
        try:
            template = choose_template({"tokenizer.chat_template": source})
            prompt = template.render(messages, tools)
            if prompt.parser is not None:
                prompt.parser("<think>Hm</think><tool_call>", True)
            told.append("rendered")
        except TemplateError:
            told.append("refused")
    return told
"""


@linux
def test_mutated_templates(upstream: Path) -> None:
    sources = sorted((upstream / "models" / "templates").glob("*.jinja"))
    cases = {}
    for seed in range(150):
        chance = random.Random(seed)
        path = chance.choice(sources)
        cases[f"{path.stem} {seed}"] = mutated(path.read_text(encoding="utf-8"), chance)
    outcomes = in_children(FUZZ, cases)
    assert {name: o for name, o in outcomes.items() if o.kind != "ok" or o.megabytes > 1500} == {}
    told = " ".join(outcome.told for outcome in outcomes.values())
    assert "rendered" in told
    assert "refused" in told


def test_long_conversations_are_rendered(upstream: Path) -> None:
    """The budget is for what is kept, not for what a loop makes and drops again."""
    turns = [{"role": "user", "content": "Hello. " * 20}, {"role": "assistant", "content": "Hi."}]
    source = (
        "{% for m in messages %}{% set ns = namespace(n=0) %}{% for other in messages %}"
        "{% if other.role == m.role %}{% set ns.n = ns.n + 1 %}{% endif %}{% endfor %}"
        "{{ m.role }} {{ ns.n }} {{ m.content }}\n{% endfor %}"
    )
    assert "user 151" in JinjaTemplate("x", source).render(turns * 150 + turns[:1]).text
    for path in sorted((upstream / "models" / "templates").glob("*.jinja")):
        if path.stem == "Reka-Edge":  # makes too much of more than some messages
            continue
        template = choose_template({"tokenizer.chat_template": path.read_text(encoding="utf-8")})
        try:
            template.render(turns[:1])
        except TemplateError:
            continue
        assert template.render(turns * 60 + turns[:1]).text
