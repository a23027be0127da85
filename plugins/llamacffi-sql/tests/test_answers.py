"""Reading answers, complete and while they grow."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llamacffi.templates import find_template
from llamacffi_sql.answer import parse

PIECES = [
    "SELECT", "select", "Select", "WITH", "a", "*", ";", "\n", "\n\n", " ", "--", " -- why\n", "-",
    "/*", "*/", "/", "'", '"', "`", "``", "```", "```sql", "```my", "sql", "\n```\n", "[", "]",
    "[SQL]", "[/SQL]", "[QUESTION]", "\n### Task", "###", "#", "\\", "\\###", "[\\SQL]", "$", "$$",
    "$x$", "(", ")", "Here it is:", "This counts.", "\u2028", "é",
]  # fmt: skip
pieces = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


@pytest.mark.parametrize(
    ("text", "statements", "explanation"),
    [
        ("SELECT 1", "SELECT 1", None),
        ("  SELECT 1;\n", "SELECT 1;", None),
        ("-- One.\n--Really.\nSELECT 1;", "SELECT 1;", "One.\nReally."),
        ("/* One. */ SELECT 1; -- Done.", "SELECT 1;", "One.\nDone."),
        ("SELECT 1 -- one\n, 2;", "SELECT 1 -- one\n, 2;", None),
        ("SELECT /*+ A */ ';--', \"a;b\", $$;$$;x", "SELECT /*+ A */ ';--', \"a;b\", $$;$$;", "x"),
        ("SELECT 'it''s; ok' FROM `a;b`, [c;d];x", "SELECT 'it''s; ok' FROM `a;b`, [c;d];", "x"),
        ("```sql\nSELECT 1;\n```", "SELECT 1;", None),
        ("```\nSelect 1\n```\nThis is one.", "Select 1", "This is one."),
        ("```sqlite\n-- One.\nVACUUM;\n```", "VACUUM;", "One."),
        ("SELECT 1\n```\nThis is one.", "SELECT 1", "This is one."),
        ("So:\n```sql\nSELECT 1;\n```\nWith this, done.", "SELECT 1;", "So:\nWith this, done."),
        ("SELECT 1; SELECT 2;\n-- two\nSELECT 3", "SELECT 1;\nSELECT 2;\nSELECT 3", "two"),
        ("[SQL]\n(SELECT 1) UNION (SELECT 2)\n[/SQL]\nmore", "(SELECT 1) UNION (SELECT 2)", None),
        ("SELECT 1;\n\n### Task\nGenerate", "SELECT 1;", None),
        ("### Task", "", None),
        ("SELECT [\\SQL], '\\###'", "SELECT [SQL], '###'", None),
        ("I do not know", "", "I do not know"),
        ("Select one of the pets.", "", "Select one of the pets."),
        ("", "", None),
    ],
)  # fmt: skip
def test_answers(sql, text, statements, explanation):
    expected = {"role": "assistant", "content": statements}
    if explanation:
        expected["reasoning_content"] = explanation
    assert sql.parse(text) == expected


def assert_beginning(early, late):
    for key in ("content", "reasoning_content"):
        assert late.get(key, "").startswith(early.get(key, "")), key


@given(pieces | st.text(max_size=30))
@example("(SELECTED")
@example("SELECT 1\n### Task")
@example("Prose [/SQL]")
@example("SELECT $a$ ; $a$; x")
@example("Here:\n```postgresql\nSELECT 'a''b' -- c\n;```\n-- d\n[/SQL] e")
def test_early_readings_are_beginnings_of_later_ones(text):
    whole = parse(text)
    readings = [parse(text[:length], partial=True) for length in range(len(text) + 1)]
    for early, late in zip(readings, [*readings[1:], whole], strict=True):
        assert_beginning(early, late)
    for length in range(len(text) + 1):
        # An answer that ends here may have been shown up to here.
        assert_beginning(readings[length], parse(text[:length]))


def test_words_are_shown_as_soon_as_they_are_complete():
    text = "-- One.\nSELECT a, b FROM t;"
    shown = {parse(text[:length], partial=True)["content"] for length in range(len(text) + 1)}
    ends = (0, 6, 8, 9, 11, 16, 18)
    assert shown == {"SELECT a, b FROM t"[:end] for end in ends}
    assert parse("-- One.\nS", partial=True)["reasoning_content"] == "One."


@given(
    st.lists(st.sampled_from(["One row.", "It's a; b", "[SQL]", "### c"]), max_size=3),
    st.sampled_from(["SELECT 1;", "SELECT '[/SQL]\n### Task'\nFROM a;", "WITH a AS (\n\n) b", ""]),
)
def test_what_was_rendered_is_read_back(lines, statement):
    message = {"role": "assistant", "content": statement}
    if lines:
        message["reasoning_content"] = "\n".join(lines)
    ask = {"role": "user", "content": "?"}
    prompt = find_template("sql").render([ask, message, ask])
    assert parse(prompt.text.partition("[SQL]\n")[2]) == message


@pytest.mark.parametrize("text", ["'", "``", "/*", "--", "[", "$a", "a ", "```", "(", "SELECT "])
def test_long_answers_take_no_long_time(text):
    parse(text * 20_000)
    parse("SELECT " + text * 20_000)
