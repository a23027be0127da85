"""Measure llamacffi, llama-cpp-python, llama-bench and the servers in turn; print the ratios.

Usually started by ci/bench, which sets everything up. The subjects alternate within each round,
and what counts is the median of the rounds' ratios: a machine's speed drifts, a ratio hardly.
A missed goal is shown, and is no error unless --check is given.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import machine
from benchmarks.metrics import METRICS, OURS, PEER, UPSTREAM, Metric
from benchmarks.report import Outcome, facts_list, table
from benchmarks.serving.rounds import Served
from benchmarks.serving.scenarios import SCENARIOS
from benchmarks.subject import Subject, SubjectError, from_setup

RESULTS = Path(__file__).parent / "results"
BUSY = 0.5


def main() -> int:
    options = parse_arguments()
    facts = machine.describe() | device_facts(options)
    subjects = from_setup(options.place.resolve(), options.library, options.backend)
    facts |= {"threads": options.threads, "rounds": options.rounds, "model": options.model.name}
    facts["load average before"] = load = machine.load_average()
    if load is not None and load > BUSY:
        print(
            f"The load average is {load:.1f}: others are at work. Spinning threads that have to "
            "share their processors lose a factor of ten and more; expect wide spreads."
        )
    outcomes = [
        measure(metric, subjects, model_of(metric, options), options.threads, options.rounds)
        for metric in METRICS
        if not options.only or metric.name in options.only
    ]
    served = Served(options.place.resolve(), options.model.resolve(), options.threads)
    for scenario in SCENARIOS:
        if not options.only or scenario.name in options.only:
            served.measure(scenario, options.rounds)
    facts["load average after"] = machine.load_average()
    text = "\n\n".join(filter(None, (facts_list(facts), in_libraries(outcomes), served.tables())))
    print(f"\n{text}\n")
    outcomes += served.outcomes
    for outcome in outcomes:
        for miss in outcome.misses():
            print(f"Missed: {miss}")
    if options.save:
        save(facts, outcomes, text)
    failed = any(outcome.failure for outcome in outcomes)
    missed = any(outcome.misses() for outcome in outcomes)
    return 1 if failed or (options.check and missed) else 0


def parse_arguments() -> argparse.Namespace:
    names = [entry.name for entry in (*METRICS, *SCENARIOS)]
    parser = argparse.ArgumentParser(description=__doc__, prog="ci/bench")
    parser.add_argument("--place", type=Path, required=True, help="the folder set up by ci/bench")
    parser.add_argument("--model", type=Path, required=True, help="SmolLM2-135M as GGUF")
    parser.add_argument("--backend", default="cpu", help="the one that all were built for")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", type=lambda text: text.split(","), help=", ".join(names))
    parser.add_argument("--library", type=Path, help="another library file for llamacffi")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(names)
    if unknown:
        parser.error(f"no such measurement: {', '.join(unknown)}; there are {', '.join(names)}")
    return options


def device_facts(options: argparse.Namespace) -> dict[str, object]:
    """The backend, and its first device as llamacffi reports it."""
    python = options.place.resolve() / "ours/bin/python"
    return {"backend": options.backend, "device": machine.device_name(python, options.backend)}


def model_of(metric: Metric, options: argparse.Namespace) -> Path:
    given: Path = options.model if metric.model is None else options.place / metric.model
    return given.resolve()


def measure(
    metric: Metric, subjects: dict[str, Subject], model: Path, threads: int, rounds: int
) -> Outcome:
    """Alternate between the subjects: A B C, A B C, ..."""
    names = (OURS, *metric.others)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for number in range(1, rounds + 1):
        try:
            for name in names:
                figures[name].append(subjects[name].measure(metric, model, threads))
        except SubjectError as error:
            print(f"{metric.title}: {error}", file=sys.stderr)
            return Outcome(metric, figures, str(error))
        shown = ", ".join(f"{name} {figures[name][-1]:.{metric.decimals}f}" for name in names)
        print(f"{metric.title}, {number}/{rounds}: {shown} {metric.unit}", flush=True)
    return Outcome(metric, figures)


def in_libraries(outcomes: list[Outcome]) -> str:
    """The table of what the libraries did; none if they were not measured."""
    return table(outcomes, (PEER, UPSTREAM)) if outcomes else ""


def save(facts: dict[str, object], outcomes: list[Outcome], text: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / machine.file_stem(facts)
    measured = {outcome.metric.name: outcome.as_json() for outcome in outcomes}
    content = json.dumps({"facts": facts, "metrics": measured}, indent=2, ensure_ascii=False)
    stem.with_suffix(".json").write_text(content + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(f"{text}\n", encoding="utf-8")
    print(f"Written: {stem.name}.json, {stem.name}.md")


if __name__ == "__main__":
    sys.exit(main())
