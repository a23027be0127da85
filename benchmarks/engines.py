"""Compare the engines for structured output: schemas covered, texts valid, time per token.

    build-bench/ours/bin/python -m benchmarks.engines --model MODEL --suite FOLDER

FOLDER is what ci/json-schema-suite fetches. For each schema of it that an engine accepts, texts
are picked token by token from random logits, nothing of the model but its vocabulary: the engine's
worst case, since it refuses nearly everything. The time is that of picking a token, the engine's
part and the rest of the chain, which an empty chain shows alone.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

import llamacffi
from llamacffi.errors import LlamaCffiError

DRAFTS = {
    "draft7": jsonschema.Draft7Validator,
    "draft2020-12": jsonschema.Draft202012Validator,
}
TOKENS = 200  # a text that is longer is left unfinished


class Picker:
    """Picks tokens from random logits that favour the end of a text."""

    def __init__(self, model: llamacffi.Model) -> None:
        self.model = model
        self.context = model.context(n_ctx=64)
        self.context.decode_tokens([model.vocab.bos or 0])
        self.random = np.random.default_rng(1)
        self.lift = np.zeros(model.vocab.n_tokens, np.float32)
        for text in ('"', "}", "]", '"}', '"]', ","):
            for token in model.vocab.tokenize(text, add_special=False)[-1:]:
                self.lift[token] = 6
        self.lift[model.vocab.eog_tokens] = 8
        self.seconds = 0.0
        self.picked = 0

    def text(self, chain: llamacffi.SamplerChain) -> str | None:
        """A text; None if it does not end in time."""
        vocab, tokens = self.model.vocab, [0]
        chain.reset()
        chain.accept_prompt(tokens)
        logits = self.context.logits()
        for _ in range(TOKENS):
            logits[:] = self.random.standard_normal(logits.size, np.float32) + self.lift
            begun = time.perf_counter()
            token = chain.sample(self.context, tokens=tokens)
            self.seconds += time.perf_counter() - begun
            self.picked += 1
            if vocab.is_eog(token):
                return vocab.detokenize(tokens[1:])
            tokens.append(token)
        return None


def main() -> None:
    options = parse_arguments()
    warnings.simplefilter("ignore")  # jsonschema resolves old references
    print("| engine | schemas accepted | texts finished | of these valid | µs a token |")
    print("| --- | --- | --- | --- | --- |")
    with llamacffi.Model(options.model, backend="cpu") as model:
        picker = Picker(model)
        bare = llamacffi.SamplerChain(model, ["greedy"])
        for _ in range(20):
            picker.text(bare)
        print(f"| none | | | | {1e6 * picker.seconds / picker.picked:.0f} |")
        for engine in options.engines:
            print(measure(engine, Picker(model), options.suite / "tests", options.texts))


def measure(engine: str, picker: Picker, suite: Path, texts: int) -> str:
    """A line of the table."""
    total = accepted = finished = valid = 0
    for draft, validator in DRAFTS.items():
        for file in sorted((suite / draft).glob("*.json")):
            for case in json.loads(file.read_text(encoding="utf-8")):
                total += 1
                schema = case["schema"]
                try:
                    chain = llamacffi.SamplerChain(
                        picker.model, [(engine, {"json_schema": schema}), "greedy"]
                    )
                except LlamaCffiError:
                    continue
                accepted += 1
                checker = validator(schema)
                for _ in range(texts):
                    text = picker.text(chain)
                    finished += text is not None
                    valid += text is not None and is_valid(text, checker)
                chain.close()
    speed = 1e6 * picker.seconds / picker.picked
    return f"| {engine} | {accepted} of {total} | {finished} | {valid} | {speed:.0f} |"


def is_valid(text: str, checker: Any) -> bool:
    try:
        return bool(checker.is_valid(json.loads(text)))
    except ValueError:
        return False


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--suite", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=5, help="for each schema")
    parser.add_argument("--engines", nargs="+", default=["json_schema", "llguidance"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
