"""The prompt, spelled out; what is refused; for which models."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llamacffi.errors import TemplateError
from llamacffi.templates import RenderOptions
from llamacffi_sql.schema import split

SCHEMA = "CREATE TABLE pets (\n  name TEXT, -- its first; not unique\n  age INT\n);"
SYSTEM = {"role": "system", "content": f"Use SQLite's dialect.\n\n{SCHEMA}\nBe brief."}
COUNT = {"role": "user", "content": "How many pets are there?"}
OLDEST = {"role": "user", "content": "Who is the oldest?"}
ANSWER = {
    "role": "assistant",
    "content": "SELECT COUNT(*) FROM pets;",
    "reasoning_content": "Each row is a pet.",
}
TASK = "### Task\nGenerate a SQL query to answer [QUESTION]How many pets are there?[/QUESTION]\n\n"
HEADING = (
    "### Answer\nGiven the database schema, here is the SQL query that answers "
    "[QUESTION]How many pets are there?[/QUESTION]\n[SQL]\n"
)
FIRST = (
    f"{TASK}### Instructions\nUse SQLite's dialect.\nBe brief.\n\n### Database Schema\n"
    f"The query will run on a database with the following schema:\n{SCHEMA}\n\n"
)


def test_it_is_registered(sql):
    assert sql.name == "sql"
    listed = subprocess.run(
        [sys.executable, "-m", "llamacffi", "plugins"], capture_output=True, text=True, check=True
    ).stdout
    assert "sql (llamacffi-sql 0.1.0): register_templates" in listed
    assert listed.rstrip().endswith(", sql") or ", sql," in listed


def test_one_question(sql):
    prompt = sql.render([SYSTEM, COUNT])
    assert prompt.text == FIRST + HEADING
    assert prompt.stops == ("[/SQL]", "[QUESTION]", "\n###")
    assert prompt.grammar is None
    untrusted = [text for text, trusted in prompt.parts if not trusted]
    question = COUNT["content"]
    assert untrusted == [question, "Use SQLite's dialect.\nBe brief.", SCHEMA, question]


def test_a_conversation(sql):
    more = {"role": "developer", "content": "CREATE TABLE owners (name TEXT)"}
    prompt = sql.render([SYSTEM, COUNT, ANSWER, more, OLDEST])
    first = sql.render([SYSTEM, COUNT]).text
    assert prompt.text == (
        f"{first}-- Each row is a pet.\nSELECT COUNT(*) FROM pets;\n[/SQL]\n\n"
        "### Task\nGenerate a SQL query to answer [QUESTION]Who is the oldest?[/QUESTION]\n\n"
        "### Database Schema\nThe query will run on a database with the following schema:\n"
        "CREATE TABLE owners (name TEXT)\n\n"
        "### Answer\nGiven the database schema, here is the SQL query that answers "
        "[QUESTION]Who is the oldest?[/QUESTION]\n[SQL]\n"
    )


def test_without_a_system_message_and_the_start_of_an_answer(sql):
    without = RenderOptions(add_generation_prompt=False)
    assert sql.render([COUNT]).text == TASK + HEADING
    assert sql.render([COUNT], options=without).text == TASK
    assert sql.render([COUNT, ANSWER], options=without).text.endswith("FROM pets;\n[/SQL]\n\n")


def test_contents_in_parts(sql):
    parts = [{"type": "text", "text": "How many"}, {"type": "text", "text": "pets?"}]
    assert (
        "[QUESTION]How many\npets?[/QUESTION]"
        in sql.render([{"role": "user", "content": parts}]).text
    )


@pytest.mark.parametrize(
    ("text", "schema", "rest"),
    [
        ("Be brief.", "", "Be brief."),
        ("Create table aliases.", "", "Create table aliases."),
        ("create table aliases", "", "create table aliases"),
        ("create table a(b int)\n\nBe brief.", "create table a(b int)", "Be brief."),
        ("A\nCREATE TABLE a (b INT); -- c\nB", "CREATE TABLE a (b INT); -- c", "A\nB"),
        ("CREATE TABLE a (b CHECK ';\n\n'); A", "CREATE TABLE a (b CHECK ';\n\n');", "A"),
        ('CREATE TABLE IF NOT EXISTS "a b" (c);', 'CREATE TABLE IF NOT EXISTS "a b" (c);', ""),
        ("CREATE TEMP TABLE a AS SELECT 1;\nA", "CREATE TEMP TABLE a AS SELECT 1;", "A"),
        ("CREATE VIEW a AS SELECT 1;\n-- b\nA", "CREATE VIEW a AS SELECT 1;\n-- b", "A"),
        ("---\nALTER TABLE a ADD b INT;", "ALTER TABLE a ADD b INT;", "---"),
        ("CREATE TABLE a (b, /* ; */\nc INT); x", "CREATE TABLE a (b, /* ; */\nc INT);", "x"),
    ],
)  # fmt: skip
def test_the_schema_is_told_from_the_instructions(text, schema, rest):
    assert split(text) == (schema, rest)


def test_a_long_name_takes_no_long_time():
    text = "create table " + "a" * 100_000 + "!"
    assert split(text) == ("", text)


TOOL = {"type": "function", "function": {"name": "run", "parameters": {}}}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "run", "arguments": "{}"}}]}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "add a user message"),
        ([SYSTEM], "add a user message"),
        ([COUNT, ANSWER, SYSTEM], "add a user message"),
        ([COUNT, ANSWER], "end with a question, or set add_generation_prompt=False"),
        ([COUNT, OLDEST], r"messages\[1\] is a second question .* into one message"),
        ([SYSTEM, ANSWER], r"messages\[1\] answers no question"),
        ([COUNT, SYSTEM, ANSWER], r"messages\[2\] answers no question"),
        ([COUNT, CALL], r"messages\[1\] is about a tool call"),
        ([COUNT, {"role": "tool", "content": "2"}], r"messages\[1\] is about a tool call"),
        ([{"role": "narrator", "content": "2"}], "the role 'narrator'; the format sql has system"),
        ([{"content": "2"}], "the role None"),
        ([{"role": "user"}], "the content None: give a text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "only text is supported"),
        ([COUNT, {**ANSWER, "reasoning_content": 1}], "the reasoning_content 1"),
        (["hi"], r"messages\[0\] is 'hi'"),
        ("hi", "give a list of messages"),
    ],
)
def test_conversations_that_the_format_cannot_express(sql, messages, words):
    with pytest.raises(TemplateError, match=words):
        sql.render(messages)


@pytest.mark.parametrize(
    ("tools", "options", "words"),
    [
        ([TOOL], RenderOptions(), "no tools: its answers are SQL. Leave tools= out"),
        ((), RenderOptions(json_schema={}), "follows no JSON schema"),
        ((), RenderOptions(variables={"readonly": True}), "no variable 'readonly'; it has"),
        ((), RenderOptions(variables={"read_only": "no"}), "give True or False"),
    ],
)  # fmt: skip
def test_options_that_the_format_does_not_have(sql, tools, options, words):
    with pytest.raises(TemplateError, match=words):
        sql.render([COUNT], tools, options)


OWN = {"tokenizer.chat_template": "{{ messages }}"}
LLAMA = {"tokenizer.chat_template": "<|start_header_id|>{{ messages }}"}


@pytest.mark.parametrize(
    ("metadata", "matches"),
    [
        ({"general.name": "defog_sqlcoder-7b-2"}, True),
        ({"general.name": "x", "general.basename": "SQLCoder", **OWN}, True),
        ({"general.name": "Llama 3 Sqlcoder 8b", **LLAMA}, False),
        ({"general.name": "Mistral Text-to-SQL"}, True),
        ({"general.finetune": "text2sql"}, True),
        ({"general.name": "Qwen Text2SQL", **OWN}, False),
        ({"general.name": "NoSQLCoder"}, False),
        ({"general.name": "MySQL manual"}, False),
        ({"general.name": "Context to SQL server"}, False),
        ({"general.name": "Smollm2 135M", "general.basename": "smollm2", **OWN}, False),
        ({}, False),
    ],
)
def test_models(sql, metadata, matches):
    assert sql.matches(metadata) is matches


def test_the_model_of_the_tests_keeps_its_own_template(sql, model):
    assert not sql.matches(model.metadata)
