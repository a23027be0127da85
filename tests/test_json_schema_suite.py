"""The public JSON-Schema-Test-Suite: no text that a schema's grammar allows breaks the schema."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llamacffi import Grammar, Model, SamplerChain
from llamacffi.errors import SchemaError
from tests import gbnf
from tests.fetching import fetched

VALIDATORS = {
    "draft4": jsonschema.Draft4Validator,
    "draft6": jsonschema.Draft6Validator,
    "draft7": jsonschema.Draft7Validator,
    "draft2019-09": jsonschema.Draft201909Validator,
    "draft2020-12": jsonschema.Draft202012Validator,
}
TEXTS = 12
# How many of the suite's schemas are enforced: fewer would be a step back.
ENFORCED = {"draft4": 110, "draft6": 155, "draft7": 170, "draft2019-09": 190, "draft2020-12": 190}


@pytest.fixture(scope="session")
def suite() -> Path:
    return fetched("json-schema-suite", "json-schema-suite-4.26.0") / "tests"


def texts(schema: Any) -> list[str]:
    """Random texts that the schema's grammar allows, from short to long."""
    rules = gbnf.Grammar(Grammar.from_json_schema(schema).text)
    rng = random.Random(5)
    return [rules.generate(rng, budget=rng.choice((5, 20, 60))) for _ in range(TEXTS)]


@pytest.mark.parametrize("draft", VALIDATORS)
def test_what_the_grammar_allows_is_valid(
    suite: Path, draft: str, capfd: pytest.CaptureFixture[str]
) -> None:
    enforced = 0
    refusals: list[str] = []
    files = [*(suite / draft).glob("*.json"), *(suite / draft / "optional").glob("*.json")]
    for file in sorted(files):
        for case in json.loads(file.read_text(encoding="utf-8")):
            schema = case["schema"]
            try:
                allowed = texts(schema)
            except SchemaError as refusal:
                refusals.append(str(refusal))
                continue
            enforced += 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # jsonschema resolves old references
                validator = VALIDATORS[draft](schema)
                for text in allowed:
                    found = [error.message for error in validator.iter_errors(json.loads(text))]
                    assert not found, (file.name, case["description"], text)
    assert enforced >= ENFORCED[draft]
    unclear = [text for text in refusals if "#" not in text and "is false" not in text]
    assert not unclear  # each names the place of what it refuses
    assert capfd.readouterr() == ("", "")  # upstream's converter warns there of what it drops


def test_surrogates_stand_in_pairs() -> None:
    for text in texts({"type": "array", "items": {"type": "string"}, "minItems": 5}) * 3:
        text.encode("utf-8")
        for part in json.loads(text):
            part.encode("utf-8")  # a lone surrogate has no UTF-8


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a b": {"enum": ["x\ny", 'q"q']}, "é": {"const": 1.5}}},
        {"type": "array", "items": {"type": "string", "pattern": r"^\d{2}-[^x]$"}, "minItems": 1},
        {"type": "integer", "minimum": -120, "maximum": 99},
        {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}], "$defs": {"tree": {
            "type": "object", "properties": {"child": {"$ref": "#/$defs/tree"}}}}},
        {"type": "string", "format": "date-time"},
        True,
    ],
)  # fmt: skip
def test_llama_cpp_accepts_what_the_grammar_allows(model: Model, schema: Any) -> None:
    chain = SamplerChain(model, [("json_schema", {"json_schema": schema}), "greedy"])
    for text in texts(schema):
        chain.reset()
        for token in model.vocab.tokenize(text, add_special=False):
            chain.accept(token)  # raises if the grammar does not go on with it
        chain.accept(model.vocab.eos or 0)
