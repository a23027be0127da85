"""Answer many callers at once, each in a thread: python examples/engine_threads.py [MODEL]"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import llamacffi

QUESTIONS = ["What is the capital of France?", "And of Italy?", "What is snow?", "Name a colour."]


def main() -> None:
    """Ask all questions together, and say how much of the prompts was computed only once."""
    reference = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
    system = {"role": "system", "content": "You are a friendly teacher who answers briefly."}
    with (
        llamacffi.Model(reference) as model,
        llamacffi.Engine(model, n_parallel=4, n_ctx=1024) as engine,
    ):

        def ask(question: str) -> str:
            messages = [system, {"role": "user", "content": question}]
            result = engine.create_chat_completion(messages, max_tokens=12)
            return str(result["choices"][0]["message"]["content"])

        with ThreadPoolExecutor() as pool:
            for question, answer in zip(QUESTIONS, pool.map(ask, QUESTIONS), strict=True):
                print(f"> {question}\n{answer}")
        totals = engine.stats().totals
        print(f"({totals.cached_tokens} of {totals.prompt_tokens} tokens of prompts were known)")


if __name__ == "__main__":
    main()
