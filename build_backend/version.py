"""Print the project's version from pyproject.toml, for meson.build."""

import re
from pathlib import Path

text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
match = re.search(r'^version = "([^"]+)"', text, flags=re.MULTILINE)
if match is None:
    raise SystemExit("pyproject.toml has no version")
print(match.group(1))
