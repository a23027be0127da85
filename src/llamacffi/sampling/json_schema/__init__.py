"""JSON schemas made ready for upstream's converter to GBNF.

`preparing` walks a schema; `refs` finds what references mean; `conjunctions` merges what speaks
about the same value; `scalars` and `containers` build the node of one type; `strings` writes
lengths, formats and patterns, which `pattern` parses; `keywords` is the vocabulary.
"""

from llamacffi.sampling.json_schema.preparing import prepare, schema_text

__all__ = ["prepare", "schema_text"]
