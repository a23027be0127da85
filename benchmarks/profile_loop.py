"""Where the time of one generated token goes: each native function, and what is left for Python.

    python benchmarks/profile_loop.py MODEL [--tokens 256] [--threads 2]

Run it by an interpreter that has llamacffi. Every native function is wrapped in a clock; what the
clocks themselves cost is measured first and taken off. "Python" is all the rest: our own code,
cffi's conversions, the results' dictionaries. "Without decoding" is the same loop with the decode
of single tokens left out: the whole cost of the binding, hardly disturbed by other work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import llamacffi
from llamacffi.backends import choose

PROMPT = "Once upon a time there was"
WARM_UP_TOKENS = 16


class Clocked:
    """Stands in for a cffi library: calls pass through, and are counted and timed."""

    def __init__(self, lib: Any) -> None:
        self.lib = lib
        self.nanoseconds: dict[str, int] = {}
        self.calls: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.lib, name)
        if callable(found):
            found = self._wrap(name, found)
        setattr(self, name, found)
        return found

    def _wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        self.reset_one(name)
        clock, nanoseconds, calls = time.perf_counter_ns, self.nanoseconds, self.calls

        def clocked(*arguments: Any) -> Any:
            begun = clock()
            result = function(*arguments)
            nanoseconds[name] += clock() - begun
            calls[name] += 1
            return result

        return clocked

    def reset_one(self, name: str) -> None:
        self.nanoseconds[name] = self.calls[name] = 0

    def reset(self) -> None:
        for name in self.calls:
            self.reset_one(name)


class WithoutDecode:
    """Stands in for a cffi library whose single-token decodes do nothing; the logits stay."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._lib, name)
        setattr(self, name, found)
        return found

    def llamacffi_decode_tokens(self, context: Any, tokens: Any, n_tokens: int, *more: Any) -> int:
        if n_tokens == 1:
            return 0
        code: int = self._lib.llamacffi_decode_tokens(context, tokens, n_tokens, *more)
        return code


def clock_cost() -> tuple[float, float]:
    """Nanoseconds a clocked call costs over a plain one: in all, and inside its own interval."""

    class Nothing:
        @staticmethod
        def call() -> None:
            return None

    rounds = 200_000
    clocked = Clocked(Nothing)
    function = clocked.call
    begun = time.perf_counter_ns()
    for _ in range(rounds):
        Nothing.call()
    plain = time.perf_counter_ns() - begun
    begun = time.perf_counter_ns()
    for _ in range(rounds):
        function()
    whole = time.perf_counter_ns() - begun
    inside = max(0, clocked.nanoseconds["call"] - plain) / rounds
    return (whole - plain) / rounds, inside


def completion(llm: Any, tokens: int, clocked: Clocked | None = None) -> int:
    """Stream a completion; returns the nanoseconds after the first text, where clocks restart."""
    first = 0
    for chunk in llm.create_completion(PROMPT, max_tokens=tokens, temperature=0.0, stream=True):
        if not first and chunk["choices"][0]["text"]:
            first = time.perf_counter_ns()
            if clocked is not None:
                clocked.reset()
    return time.perf_counter_ns() - first


def main() -> None:
    options = parse_arguments()
    library = choose("cpu")
    whole_cost, inside_cost = clock_cost()
    settings: dict[str, Any] = {
        "n_ctx": 2048,
        "n_batch": 512,
        "n_threads": options.threads,
        "n_threads_batch": options.threads,
        "verbose": False,
    }
    count = options.tokens - 1

    # Undisturbed first: what the clocked run is to be compared with.
    llm = llamacffi.Llama(options.model, **settings)
    completion(llm, WARM_UP_TOKENS)
    plain = [completion(llm, options.tokens) / count / 1e3 for _ in range(options.rounds)]
    llm.close()

    clocked = Clocked(library.lib)
    library.lib = clocked
    llm = llamacffi.Llama(options.model, **settings)
    completion(llm, WARM_UP_TOKENS)
    rows: dict[str, list[float]] = {}
    wholes, pythons = [], []
    for _ in range(options.rounds):
        whole = completion(llm, options.tokens, clocked) / count / 1e3
        calls = sum(clocked.calls.values()) / count
        native = 0.0
        for name, called in clocked.calls.items():
            spent = max(0.0, clocked.nanoseconds[name] - called * inside_cost) / count / 1e3
            rows.setdefault(name, []).append(spent)
            native += spent
        whole -= calls * whole_cost / 1e3
        wholes.append(whole)
        pythons.append(whole - native)

    library.lib = WithoutDecode(clocked.lib)
    llm.close()
    llm = llamacffi.Llama(options.model, **settings)
    completion(llm, WARM_UP_TOKENS)
    bare = [completion(llm, options.tokens) / count / 1e3 for _ in range(options.rounds)]

    print(f"microseconds per token, medians of {options.rounds} rounds of {options.tokens} tokens")
    print(f"{statistics.median(plain):10.1f}  whole, undisturbed")
    print(f"{statistics.median(wholes):10.1f}  whole, clocked (clocks taken off)")
    for name, values in sorted(rows.items(), key=lambda row: -statistics.median(row[1])):
        if clocked.calls[name]:
            per_token = clocked.calls[name] / count
            print(f"{statistics.median(values):10.2f}  {name}, {per_token:.2f} calls")
    print(f"{statistics.median(pythons):10.1f}  Python")
    print(f"{statistics.median(bare):10.1f}  whole, without decoding")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
