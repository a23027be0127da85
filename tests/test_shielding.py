"""No text of a conversation becomes a control token, whatever the template does with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacffi import Model
from llamacffi.errors import TemplateError
from llamacffi.templates import (
    JinjaTemplate,
    Prompt,
    RenderOptions,
    Template,
    choose_template,
    templates,
)
from tests.tiny_models import _write, model_contents

MARK = re.compile(r"<[|/]?[A-Za-z_][^\s<>{}'\"()]*>|\[/?[A-Z_]+\]|<\uff5c[^<>{}'\"]+\uff5c>")
CONTROL, USER_DEFINED = 3, 4
OPTIONS = RenderOptions(bos_token="<s>", eos_token="</s>")
FREE = ("<free>", "<|free|>", "[free]")  # user-defined tokens, which no template uses
Slots = Callable[[str], str]
Conversation = tuple[list[dict[str, Any]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def sources(upstream: Path) -> dict[str, str]:
    """Upstream's templates and the named ones, by name."""
    found = {
        path.stem: path.read_text(encoding="utf-8")
        for path in sorted((upstream / "models" / "templates").glob("*.jinja"))
    }
    assert len(found) > 60
    named = {f"named {n}": t.source for n, t in templates().items() if isinstance(t, JinjaTemplate)}
    return found | named


@pytest.fixture(scope="module", params=["llama", "gpt2", "t5", "bert"])
def marked(
    request: pytest.FixtureRequest,
    sources: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Model]:
    """Models of each kind of tokenizer, with all marks of the templates as control tokens."""
    marks = {mark for source in sources.values() for mark in MARK.findall(source)}
    metadata, _ = model_contents(request.param)
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    more = [mark for mark in sorted(marks) if mark.encode() not in tokens]
    count = len(tokens) + len(more) + len(FREE)
    metadata["tokenizer.ggml.tokens"] = [*tokens, *(text.encode() for text in (*more, *FREE))]
    kinds = [CONTROL] * len(more) + [USER_DEFINED] * len(FREE)
    metadata["tokenizer.ggml.token_type"] = [*types, *kinds]
    scores = metadata.get("tokenizer.ggml.scores")
    if scores is not None:
        metadata["tokenizer.ggml.scores"] = [*scores, *[0.0] * (count - len(scores))]
    path = tmp_path_factory.mktemp("marked") / f"{request.param}.gguf"
    _write(path, metadata, {})
    with Model(path, backend="cpu", vocab_only=True) as loaded:
        yield loaded


def shape(model: Model, prompt: Prompt) -> list[str]:
    """The control tokens of a prompt."""
    texts = [model.vocab.text(t) for t in prompt.tokens(model.vocab) if model.vocab.is_control(t)]
    return [text for text in texts if text not in ("<unk>", "[UNK]")]


def conversations(fill: Slots) -> list[Conversation]:
    """Conversations with all kinds of texts in them."""
    name, parameter = fill("tool")[:250], fill("parameter")
    schema = {
        "type": "object",
        "properties": {
            parameter: {"type": "string", "description": fill("about"), "enum": [fill("enum")]}
        },
        "required": [parameter],
    }
    function = {"name": name, "description": fill("purpose"), "parameters": schema}
    arguments = json.dumps({parameter: fill("argument"), "more": {fill("key"): [fill("item"), 1]}})
    call = {"id": "call12345", "function": {"name": name, "arguments": arguments}}
    return [
        (
            [
                {"role": "system", "content": fill("system")},
                {"role": "user", "content": fill("question")},
                {"role": "assistant", "content": fill("answer"), "reasoning_content": fill("why")},
                {"role": "user", "content": [part(fill("first")), part(fill("second"))]},
            ],
            [],
        ),
        (
            [
                {"role": "user", "content": fill("question")},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call12345", "name": name, "content": fill("got")},
                {"role": "assistant", "content": fill("answer")},
                {"role": "user", "content": fill("again")},
            ],
            [{"type": "function", "function": function}],
        ),
    ]


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def evil(marks: Sequence[str]) -> dict[str, Slots]:
    """Ways to spell marks. What a model answered may hold its thoughts, which templates cut out."""

    def spelled(slot: str) -> list[str]:
        return [m for m in marks if "think" not in m] if slot == "answer" else list(marks)

    return {
        "whole": lambda slot: slot + "".join(spelled(slot)) + slot,
        "apart": lambda slot: slot + " " + "\n".join(spelled(slot)) + " " + slot,
        "other cases": lambda slot: "".join(m.upper() + m.lower() for m in spelled(slot)) + slot,
        "begun": lambda slot: slot + " ".join(mark[:-1] for mark in spelled(slot)),
        "ended": lambda slot: ">" + slot + "<|",
    }


def rendered(template: Template, conversation: Conversation) -> Prompt | None:
    try:
        return template.render(*conversation, OPTIONS)
    except TemplateError:
        return None  # Many templates refuse one conversation or another.


@pytest.fixture(scope="module")
def pairs(sources: dict[str, str]) -> list[tuple[str, Prompt, Prompt]]:
    """Prompts of harmless conversations, and of the same with marks in all their texts."""
    found = []
    for name, source in sources.items():
        template = choose_template({"tokenizer.chat_template": source})
        # MiniCPM5 puts its tools where the system message says so.
        marks = sorted({*MARK.findall(source), "<s>", "</s>", *FREE} - {"<tool_def_sep>"})
        harmless = [rendered(template, each) for each in conversations(lambda slot: slot)]
        for kind, fill in evil(marks).items():
            for expected, conversation in zip(harmless, conversations(fill), strict=True):
                prompt = None if expected is None else rendered(template, conversation)
                if expected is not None and prompt is not None:
                    found.append((f"{name}, {kind}", expected, prompt))
    assert len(found) > 500
    return found


def test_marks_in_contents_change_no_structure(
    marked: Model, pairs: list[tuple[str, Prompt, Prompt]]
) -> None:
    every = 1 if marked.vocab.type == "bpe" else 4  # prompts are cut alike for all kinds
    for name, harmless, prompt in pairs[::every]:
        assert shape(marked, prompt) == shape(marked, harmless), name


def test_harmless_contents_are_tokenised_in_one_go(marked: Model, sources: dict[str, str]) -> None:
    vocab = marked.vocab
    bos = [vocab.bos] if vocab.add_bos else []
    for name, source in sources.items():
        template = choose_template({"tokenizer.chat_template": source})
        prompt = rendered(template, conversations(lambda slot: slot)[0])
        if prompt is None:
            continue
        whole = vocab.tokenize(prompt.text, add_special=False, parse_special=True)
        assert prompt.tokens(vocab) in (whole, bos + whole), name


# -- what templates do with texts ---------------------------------------------------------------

DOING = {
    "as it is": "{{ x }}",
    "trimmed": "{{ x | trim }}",
    "upper": "{{ x | upper }}",
    "lower": "{{ x.lower() }}",
    "title": "{{ x | title }}",
    "capitalised": "{{ x | capitalize }}",
    "JSON": "{{ x | tojson }}",
    "JSON of a list": "{{ [x, 'y'] | tojson }}",
    "JSON of a key": "{{ {x: 1} | tojson(indent=2) }}",
    "split": "{{ x.split('|')[0] }}{{ x.split('m_end')[-1] }}",
    "split and joined": "{{ x.split('a') | join('a') }}",
    "split at the right": "{{ x.rsplit('|', 1) | join('|') }}",
    "joined": "{{ ['', x] | join('') }}{{ [x, x] | join('<|im') }}",
    "replaced": "{{ x | replace('a', 'b') }}",
    "replaced in the template's": "{{ '<|im_X|>' | replace('X', x) }}",
    "replaced by the template's": "{{ x | replace('Q', '<|im_end|>') }}",
    "sliced": "{{ x[:5] }}{{ x[5:] }}{{ x[::-1] }}",
    "an item": "{{ x[0] }}{{ x[1] }}{{ x[2] }}",
    "appended": "{{ '<|im_' ~ x }}{{ '<|im_' + x + '|>' }}",
    "repeated": "{{ x * 2 }}",
    "formatted": "{{ '{}{}'.format(x, '|>') }}{{ (x ~ '{}').format('end|>') }}",
    "format of both": "{{ ('a' ~ x ~ '{}').format(x) }}",
    "indented": "{{ x | indent(2) }}",
    "list": "{{ [x] }}{{ [x] | string }}",
    "list appended": "{{ 'a' ~ [x] ~ {'k': x} }}",
    "first and last": "{{ [x] | first }}{{ [x] | last }}",
    "in a namespace": "{% set ns = namespace(y='') %}{% set ns.y = ns.y ~ x %}{{ ns.y }}",
    "in a block": "{% set y %}<{{ x }}>{% endset %}{{ y | trim }}",
    "in a macro": "{% macro f(y) %}{{ y }}{% endmacro %}{{ f(x) | upper }}",
    "in a call": "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}{{ x }}{% endcall %}",
    "filtered": "{% filter lower %}{{ x }}{% endfilter %}",
    "keys": "{% for k in {x: 1} %}{{ k }}{% endfor %}{% for k, v in {x: x}.items() %}{{ k ~ v }}"
    "{% endfor %}",
    "sorted": "{% for k, v in {x: x} | dictsort %}{{ k }}{{ v }}{% endfor %}{{ ([x] | sort)[0] }}",
    "chosen": "{{ x if x else '' }}{{ x or 'y' }}{{ none | default(x) }}",
    "stripped of a letter": "{{ x.strip('a') }}{{ x.lstrip('<') }}{{ x.rstrip('>') }}",
    "as text": "{{ x | string }}{{ x | safe }}",
    "unpacked": "{% set y, z = [x, x] %}{{ y }}{{ z }}",
    "attributes of a list": "{{ [{'k': x}] | map(attribute='k') | join }}",
}


@pytest.mark.parametrize("doing", DOING.values(), ids=DOING.keys())
@given(
    st.lists(
        st.sampled_from(
            [
                "<|im_end|>",
                "<|im_start|>",
                "<|IM_END|>",
                "<|im_",
                "end|>",
                "|>",
                "<",
                "a",
                "Q",
                "_end|>",
                "m_end|>",
                ">dne_mi|<",
                ">|dne_mi|<",
                "é",
                '"',
                "\\",
                "{}",
            ]
        ),
        min_size=1,
        max_size=6,
    ).map("".join)
)
def test_whatever_a_template_does_with_a_text(model: Model, doing: str, text: str) -> None:
    own = "<|im_start|>user\n{% set x = messages[0].content ~ '' %}" + doing + "<|im_end|>"
    try:
        prompt = find(own).render([{"role": "user", "content": text}])
        plain = find(own).render([{"role": "user", "content": "harmless"}])
    except TemplateError:
        return  # half a character, or a placeholder without a value
    assert prompt.text.startswith("<|im_start|>user\n")
    marks = [t for t in prompt.tokens(model.vocab) if model.vocab.is_control(t)]
    assert marks == [t for t in plain.tokens(model.vocab) if model.vocab.is_control(t)]


_opened: dict[str, JinjaTemplate] = {}


def find(source: str) -> JinjaTemplate:
    return _opened.setdefault(source, JinjaTemplate("x", source))


def test_marks_cut_over_two_messages(model: Model) -> None:
    template = JinjaTemplate("x", "{% for m in messages %}{{ m.content | trim }}{% endfor %}")
    for token in filter(model.vocab.is_control, range(len(model.vocab))):
        mark = model.vocab.token_to_piece(token, special=True).decode()
        for place in range(1, len(mark)):
            messages = [{"role": "user", "content": f"{mark[:place]} \n"},
                        {"role": "user", "content": f"\t{mark[place:]}"}]  # fmt: skip
            prompt = template.render(messages)
            assert prompt.text == mark
            assert not any(map(model.vocab.is_control, prompt.tokens(model.vocab)))


@pytest.mark.parametrize("role", ["x<|im_end|>", "<|im_start|>", "im_end|>", "user"])
def test_roles(model: Model, role: str) -> None:
    template = JinjaTemplate("x", "<|{{ messages[0].role }}{{ messages[0].name }}{{ x }}|>")
    prompt = template.render([{"role": role, "name": "<|im_end|>", "content": "Hi"}])
    assert not any(map(model.vocab.is_control, prompt.tokens(model.vocab)))
    assert prompt.text == f"<|{role}<|im_end|>|>"


def test_the_models_own_template(model: Model) -> None:
    template = choose_template(model.metadata)
    marks = [
        model.vocab.token_to_piece(token, special=True).decode()
        for token in filter(model.vocab.is_control, range(len(model.vocab)))
    ]
    for expected, *found in zip(
        conversations(lambda slot: slot), *map(conversations, evil(marks).values()), strict=True
    ):
        wanted = shape(model, template.render(*expected))
        for conversation in found:
            assert shape(model, template.render(*conversation)) == wanted
        plain = template.render(*expected)
        whole = model.vocab.tokenize(plain.text, add_special=True, parse_special=True)
        assert plain.tokens(model.vocab) == whole
