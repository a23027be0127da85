"""Contents are contents: whatever they spell, the prompt's structure and control tokens stay."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from llamacffi.templates import find_template
from llamacffi_sql.answer import parse
from llamacffi_sql.escaping import escaped, unescaped

PIECES = [
    "### Task\n", "### Answer\n", "###", "#", "\\", "\n", "\r", "\u2028", " ", "[QUESTION]",
    "[/QUESTION]", "[SQL]", "[/SQL]", "[ /sql ]", "[", "]", "/", "SQL", "SELECT 1", ";", "a", "é",
    "CREATE TABLE t (a INT);", "-- b", "<|im_end|>", "<|im_start|>", "'", '"', "```",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
# An answer as it is written: its SQL starts and ends with no white space, and quotes are closed.
answers = texts.map(lambda text: 'SELECT "' + text.replace('"', "") + '";')

SCHEMA = "The query will run on a database with the following schema:\n"
SECTION = re.compile(r"^### (.+)\n", re.M)
TASK = re.compile(r"Generate a SQL query to answer \[QUESTION\](.*?)\[/QUESTION\]\s*", re.S)
ANSWER = re.compile(r".*?\[QUESTION\](.*?)\[/QUESTION\]\n\[SQL\]\n(.*?)(?:\n\[/SQL\]\s*)?", re.S)


def sections(prompt: str) -> list[tuple[str, str]]:
    """The prompt as the model was taught to see it: headings, and what stands below them."""
    _, *found = SECTION.split(prompt)
    return list(zip(found[::2], found[1::2], strict=True))


@given(texts)
def test_escaping_leaves_no_mark_and_can_be_undone(text):
    hidden = escaped(text)
    assert unescaped(hidden) == text
    assert not re.search(r"\[\s*/?(QUESTION|SQL)\]|(?<![\\#])###", hidden)


def test_what_is_no_mark_stays_as_it_is():
    text = "## a # b [question mark] [SQL Server] C:\\d [/x]"
    assert escaped(text) == text
    assert escaped("### [SQL] \\#### [\\/sql]") == "\\### [\\SQL] \\\\#### [\\\\/sql]"


@given(texts, texts, answers, texts)
def test_contents_change_no_structure(system, one, answer, two):
    quoted = system.replace("'", "")
    messages = [
        {"role": "system", "content": f"CREATE TABLE t (a TEXT DEFAULT '{quoted}');\n\nA{system}"},
        {"role": "user", "content": one},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": two},
    ]
    found = sections(find_template("sql").render(messages).text)
    names = [name for name, _ in found]
    assert names == ["Task", "Instructions", "Database Schema", "Answer", "Task", "Answer"]
    assert unescaped(found[2][1]).startswith(f"{SCHEMA}CREATE TABLE t (a TEXT DEFAULT '{quoted}');")
    first, last = TASK.fullmatch(found[0][1]), TASK.fullmatch(found[-2][1])
    answered, asked = ANSWER.fullmatch(found[-3][1]), ANSWER.fullmatch(found[-1][1])
    assert first is not None
    assert last is not None
    assert answered is not None
    assert asked is not None
    assert unescaped(first[1]) == unescaped(answered[1]) == one.strip()
    assert unescaped(last[1]) == unescaped(asked[1]) == two.strip()
    assert asked[2] == ""
    assert parse(answered[2]) == {"role": "assistant", "content": answer}


@given(texts)
def test_contents_make_no_control_tokens(model, text):
    vocab = model.vocab
    messages = [
        {"role": "system", "content": text},
        {"role": "user", "content": text},
        {"role": "assistant", "content": text, "reasoning_content": text},
        {"role": "user", "content": "a"},
    ]
    prompt = find_template("sql").render(messages)
    tokens = prompt.tokens(vocab)
    assert not any(map(vocab.is_control, tokens))
    assert vocab.detokenize(tokens, unparse_special=True) == prompt.text


def test_every_control_token_stays_text(model, sql):
    vocab = model.vocab
    for token in filter(vocab.is_control, range(len(vocab))):
        spelled = vocab.token_to_piece(token, special=True).decode()
        tokens = sql.render([{"role": "user", "content": spelled}]).tokens(vocab)
        assert not any(map(vocab.is_control, tokens)), spelled
