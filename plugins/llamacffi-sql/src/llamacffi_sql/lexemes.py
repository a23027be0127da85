r"""Regular expressions for the parts of SQL in which a semicolon or a comment mark means nothing.

One that is not closed reaches to the end of the text (`\Z`): seen again when there is more of the
text, it can only have grown.
"""

from __future__ import annotations

__all__ = ["COMMENT", "QUOTED"]

COMMENT = r"--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z)"

QUOTED = "|".join(
    (
        r"'(?:[^']|'')*(?:'|\Z)",
        r'"(?:[^"]|"")*(?:"|\Z)',
        r"`[^`]*(?:`|\Z)",
        r"\$\w*\Z",
        r"\$(?P<dollar>\w*)\$.*?(?:\$(?P=dollar)\$|\Z)",
        r"\[[^\]\n'\"]*(?:\]|\Z)",  # T-SQL's; not PostgreSQL's ARRAY['a', 'b']
    )
)
