"""Where this package is installed, it is what holds a text to a structure."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

import llamacffi
from llamacffi.errors import SchemaError

BOUNDED: dict[str, Any] = {"type": "number", "minimum": 0.25, "maximum": 0.75}
UNIQUE: dict[str, Any] = {"type": "array", "items": {"const": 3}, "maxItems": 1}
UNIQUE["uniqueItems"] = True


def shaped(llama: llamacffi.Llama, schema: dict[str, Any], **more: Any) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    result = llama("A value: ", max_tokens=40, temperature=0, response_format=wanted, **more)
    return json.loads(result["choices"][0]["text"])


def test_it_is_the_default(llama: llamacffi.Llama) -> None:
    value = shaped(llama, BOUNDED)
    jsonschema.validate(value, BOUNDED)
    chain = llamacffi.SamplingParams(json_schema=BOUNDED).chain(llama.model)
    assert "llguidance" in repr(chain)


def test_the_built_in_engine_takes_what_this_one_cannot(llama: llamacffi.Llama) -> None:
    with pytest.raises(SchemaError, match="uniqueItems"):
        llamacffi.SamplingParams(json_schema=UNIQUE, structured_engine="llguidance").chain(
            llama.model
        )
    chain = llamacffi.SamplingParams(json_schema=UNIQUE).chain(llama.model)
    assert "llguidance" not in repr(chain)
    assert shaped(llama, UNIQUE) in ([], [3])


def test_both_are_named_when_neither_can(llama: llamacffi.Llama) -> None:
    with pytest.raises(SchemaError) as caught:
        shaped(llama, {"type": "array", "contains": {"type": "integer"}, "uniqueItems": True})
    assert str(caught.value).count("contains") >= 2


def test_regex_and_lark_by_parameters(llama: llamacffi.Llama) -> None:
    params = llamacffi.SamplingParams(regex=r"\d{3}-\d{4}", temperature=0)
    text = llama("Call me: ", max_tokens=12, sampling=params, temperature=0)["choices"][0]["text"]
    assert (len(text), text[3]) == (8, "-")
    params = llamacffi.SamplingParams(lark='start: "yes" | "no"', temperature=0)
    text = llama("Yes or no? ", max_tokens=12, sampling=params, temperature=0)["choices"][0]["text"]
    assert text in ("yes", "no")
