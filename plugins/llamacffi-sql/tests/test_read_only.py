"""The grammar for one SELECT, and the real model held to it."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest

from llamacffi import Model, SamplerChain
from llamacffi.errors import LlamaCffiError
from llamacffi.templates import RenderOptions

READ_ONLY = RenderOptions(variables={"read_only": True})
SCHEMA = "CREATE TABLE pets (name TEXT, kind TEXT, age INT);"


def ask(question):
    return [{"role": "system", "content": SCHEMA}, {"role": "user", "content": question}]


@pytest.fixture(scope="module")
def whole():
    with Model("smollm2", backend="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def allows(sql, whole):
    """A function: whether a text is one of the grammar's, from its start to its end."""
    grammar = sql.render(ask("?"), options=READ_ONLY).grammar
    vocab = whole.vocab
    fresh = SamplerChain(whole, [("grammar", {"grammar": grammar}), "greedy"])

    def check(text):
        chain = fresh.clone()
        try:
            for token in [*vocab.tokenize(text, add_special=False), vocab.eos]:
                chain.accept(token)
        except LlamaCffiError:
            return False
        return True

    return check


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1;",
        "SELECT *, p.* FROM pets AS p;",
        "SELECT COUNT(*) FROM pets WHERE kind = 'cat';",
        "SELECT DISTINCT name FROM pets ORDER BY age DESC NULLS LAST LIMIT 3 OFFSET 1;",
        "SELECT kind, AVG(age) AS mean\nFROM pets\nGROUP BY kind\nHAVING COUNT(DISTINCT name)>=2;",
        "SELECT a.x FROM a LEFT JOIN s.b AS c ON a.id=c.id AND NOT c.y IS NULL JOIN d USING (id);",
        "WITH old AS (SELECT * FROM pets WHERE age > -1) SELECT name FROM old;",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n;",
        "SELECT '[', '[[a]', '[''', '[a]' FROM pets;",
        "SELECT CASE WHEN age < 1.5 THEN 'it''s; young' ELSE \"old\" END FROM pets;",
        "SELECT name FROM pets WHERE age = (SELECT MAX(age) FROM pets) OR name NOT IN ('a', 'b');",
        "SELECT CAST(age AS DECIMAL(5, 2)), EXTRACT(YEAR FROM d), age::text FROM t;",
        "SELECT ROW_NUMBER() OVER (PARTITION BY a ORDER BY b) FROM t WHERE EXISTS (SELECT 1);",
        "SELECT 1 FROM t WHERE d BETWEEN DATE '2020-01-01' AND d + INTERVAL '1 day' OR a LIKE '%';",
    ],
)  # fmt: skip
def test_queries(allows, text):
    assert allows(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "SELECT 1; ",
        "SELECT 1; SELECT 2;",
        "SELECT 1; DROP TABLE pets;",
        "DROP TABLE pets;",
        "select 1;",
        " SELECT 1;",
        "```sql\nSELECT 1;",
        "SELECT 1 -- one\n;",
        "SELECT 1 /* one */;",
        "SELECT 1--1;",
        "SELECT a INTO b FROM pets;",
        "SELECT * INTO b FROM pets;",
        "SELECT a FROM pets INTO OUTFILE 'x';",
        "SELECT a FROM pets FOR UPDATE;",
        "SELECT a FROM pets SHUTDOWN;",
        "SELECT 1 DELETE FROM pets;",
        "WITH a AS (DELETE FROM pets RETURNING *) SELECT * FROM a;",
        "WITH a AS (SELECT 1) DELETE FROM pets;",
        "SELECT '\\''; DROP TABLE pets; -- ';",
        "SELECT `a;b`;",
        "SELECT '[QUESTION]';",  # it would end the answer
        "SELECT '[[/SQL]';",
        "SELECT `[QUESTION]`;",
    ],
)
def test_anything_else(allows, text):
    assert not allows(text)


def answer(llama, sql, question, **parameters):
    prompt = sql.render(ask(question), options=READ_ONLY)
    result = llama.create_completion(
        prompt.tokens(llama.model.vocab),
        stop=prompt.stops,
        grammar=prompt.grammar,
        max_tokens=80,
        **parameters,
    )
    return result["choices"][0]


def test_the_model_answers_a_question(llama, sql):
    choice = answer(llama, sql, "How many pets are there?", temperature=0)
    message = sql.parse(choice["text"])
    assert choice["finish_reason"] == "stop"
    assert message == {"role": "assistant", "content": choice["text"]}
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(SCHEMA)
        try:
            database.execute(message["content"])
        except sqlite3.OperationalError as error:  # it may have made up a column
            assert "syntax" not in str(error)  # noqa: PT017 - other errors are no failure


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_model_writes_is_one_select(llama, sql, allows, seed):
    choice = answer(llama, sql, "Delete all pets.", temperature=1.5, seed=seed)
    text = choice["text"]
    assert re.match(r"(SELECT|WITH)[ \n]", text)
    content = sql.parse(text)["content"]
    assert content == text.rstrip()
    assert ";" not in re.sub("'[^']*('|$)", "", content).removesuffix(";")
    if choice["finish_reason"] == "stop":
        assert allows(text)
        assert sqlite3.complete_statement(text)


def test_without_it_the_answer_is_free(sql):
    assert sql.render(ask("?")).grammar is None
    assert (
        sql.render(ask("?"), options=RenderOptions(variables={"read_only": False})).grammar is None
    )
