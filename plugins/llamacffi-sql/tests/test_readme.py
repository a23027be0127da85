"""What the README shows works."""

from __future__ import annotations

import re
from pathlib import Path

from llamacffi.templates import RenderOptions

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_quick_start(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    exec(compile(block, "README.md", "exec"), {})
    assert re.match(r"(SELECT|WITH)\b.*;$", capsys.readouterr().out, re.S)


def test_the_prompt(sql):
    (block,) = re.findall(r"^```text\n(.*?)^```", README, re.M | re.S)
    schema = "CREATE TABLE pets (name TEXT, kind TEXT, age INT);"
    messages = [
        {"role": "system", "content": f"Use SQLite's dialect.\n{schema}"},
        {"role": "user", "content": "How many pets are there?"},
        {
            "role": "assistant",
            "content": "SELECT COUNT(*) FROM pets;",
            "reasoning_content": "Each row is a pet.",
        },
    ]
    prompt = sql.render(messages, options=RenderOptions(add_generation_prompt=False))
    assert prompt.text == block + "\n"
