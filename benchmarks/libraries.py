"""Compare builds of the library: the barest loop over llama_decode, in alternating processes.

    python -m benchmarks.libraries --place build-bench --model MODEL \\
        stock=build-bench/stock/bin/libllama.so clang=other/libllama-cpu-native.so

Prints, for each build, the ratio to the first one and to llama-bench. Any libllama of the pinned
commit will do. --poll compares levels of the thread pool's polling: 0 sleeps at once, 100 keeps
spinning longest, "none" attaches no pool, so that llama.cpp starts its threads anew for every
token. On a busy machine `--threads 1 --cpu-time` still says which compiler makes better code.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from benchmarks.metrics import METRICS, UPSTREAM
from benchmarks.report import Spread
from benchmarks.subject import Subject, from_libraries, from_setup


def main() -> int:
    options = parse_arguments()
    libraries = {}
    for text in options.libraries:
        label, _, path = text.rpartition("=")
        libraries[label or Path(path).stem] = Path(path).resolve()
    place = options.place.resolve()
    python = options.python or place / "ours/bin/python"
    subjects: dict[str, Subject] = {}
    if not options.cpu_time:
        subjects[UPSTREAM] = from_setup(place)[UPSTREAM]
    subjects |= from_libraries(libraries, python, options.poll, options.cpu_time)
    for metric in METRICS:
        if metric.name in options.only:
            shorter = dataclasses.replace(metric, repetitions=options.repetitions)
            figures: dict[str, list[float]] = {name: [] for name in subjects}
            for _ in range(options.rounds):
                for name, subject in subjects.items():
                    rate = subject.measure(shorter, options.model.resolve(), options.threads)
                    figures[name].append(rate)
            show(metric.title, figures, base=next(name for name in figures if name != UPSTREAM))
    return 0


def show(title: str, figures: dict[str, list[float]], base: str) -> None:
    others = [base, UPSTREAM] if UPSTREAM in figures else [base]
    heads = [title, "tokens/s", *(f"÷ {other}" for other in others)]
    print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name, row in figures.items():
        pairs = [zip(row, figures[other], strict=True) for other in others]
        ratios = [str(Spread.of([a / b for a, b in pair])) for pair in pairs]
        print(f"| {' | '.join([name, f'{Spread.of(row).median:.1f}', *ratios])} |", flush=True)


def level(text: str) -> int | None:
    return None if text == "none" else int(text)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("libraries", nargs="+", metavar="[LABEL=]FILE")
    parser.add_argument("--place", type=Path, required=True, help="the folder set up by ci/bench")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--python", type=Path, help="of a venv with llamacffi; default: ci/bench's")
    parser.add_argument("--poll", type=level, nargs="+", default=[50])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="per second of CPU, not of time")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=["generate_128", "prompt_512"]
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
