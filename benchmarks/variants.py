"""Compare the wheel's CPU variants with the build for this machine, which they have to match.

    ci/variants                       build what is missing in build-variants/, then measure
    ci/variants --rounds 15 --save

Every variant that this processor can run is measured beside `native`, process by process in turn;
what counts is the median of the ratios of two neighbours, and which variant would be chosen here.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.metrics import METRICS, Metric
from benchmarks.report import Spread, facts_list
from benchmarks.run import RESULTS
from benchmarks.subject import Subject, from_libraries
from llamacffi.backends.processor import missing_features
from llamacffi.native.library import LibraryInfo, read_info

NATIVE = "native"
GOAL = 0.97
IDLE_POLL = 50


@dataclass(frozen=True)
class Row:
    """One variant's figures.

    Attributes:
        info: The library.
        lacking: What this processor lacks for it; empty if it was measured.
        ratios: For each metric's name, the variant's rate by that of `native`.
    """

    info: LibraryInfo
    lacking: list[str]
    ratios: Mapping[str, list[float]]

    def cell(self, metric: Metric) -> str:
        return str(Spread.of(self.ratios[metric.name])) if self.ratios else "not run"


def main() -> int:
    options = parse_arguments()
    facts = machine.describe() | {"backend": "cpu", "built by": compiler(options.libraries)}
    facts |= {"threads": options.threads, "rounds": options.rounds, "model": options.model.name}
    facts |= {"rates": "per second of processor time" if options.cpu_time else "per second"}
    facts["load average before"] = machine.load_average()
    metrics = [
        dataclasses.replace(metric, repetitions=options.repetitions)
        for metric in METRICS
        if metric.name in options.only
    ]
    infos = libraries(options.libraries)
    if NATIVE not in infos:
        sys.exit(f"No library for this machine in {options.libraries}: run ci/variants.")
    subjects = from_libraries(
        {variant: info.path.resolve() for variant, info in infos.items()},
        Path(sys.executable),
        [IDLE_POLL],
        options.cpu_time,
    )
    rows = [
        measure(info, subjects, metrics, options)
        for variant, info in infos.items()
        if variant != NATIVE
    ]
    facts["load average after"] = machine.load_average()
    chosen = chosen_of(rows)
    text = f"{facts_list(facts)}\n\n{table(rows, metrics, chosen)}"
    print(f"\n{text}\n")
    misses = [
        f"{metric.title}: {chosen.info.variant} reaches {median:.3f} x native, wanted {GOAL}"
        for metric in metrics
        if chosen and (median := Spread.of(chosen.ratios[metric.name]).median) < GOAL
    ]
    for miss in misses:
        print(f"Missed: {miss}")
    if options.save:
        save(facts, rows, text)
    return 1 if options.check and (misses or not chosen) else 0


def libraries(folder: Path) -> dict[str, LibraryInfo]:
    """The CPU libraries of a build folder, by variant."""
    paths = sorted(folder.glob("libllama-cpu-*.json"))
    found = [
        read_info(path.with_suffix(suffix))
        for path in paths
        for suffix in (".so", ".dylib", ".dll")
        if path.with_suffix(suffix).is_file()
    ]
    return {info.variant: info for info in found}


def compiler(folder: Path) -> str:
    """What Meson compiled a build folder with."""
    found = json.loads((folder / "meson-info" / "intro-compilers.json").read_text(encoding="utf-8"))
    return str(found["host"]["cpp"]["full_version"])


def measure(
    info: LibraryInfo,
    subjects: Mapping[str, Subject],
    metrics: list[Metric],
    options: argparse.Namespace,
) -> Row:
    """Native and the variant side by side; who comes first changes from round to round."""
    lacking = missing_features(info.features)
    ratios: dict[str, list[float]] = {}
    for metric in metrics if not lacking else ():
        ratios[metric.name] = []
        for number in range(options.rounds):
            order = [NATIVE, info.variant] if number % 2 else [info.variant, NATIVE]
            rates = {
                name: subjects[name].measure(metric, options.model.resolve(), options.threads)
                for name in order
            }
            ratio = rates[info.variant] / rates[NATIVE]
            ratios[metric.name].append(ratio)
            print(
                f"{metric.title}, {number + 1}/{options.rounds}: {info.variant} "
                f"{rates[info.variant]:.1f}, native {rates[NATIVE]:.1f} {metric.unit}: {ratio:.3f}",
                flush=True,
            )
    return Row(info, lacking, ratios)


def chosen_of(rows: list[Row]) -> Row | None:
    """The variant that a wheel would use here: the most demanding one that can run."""
    runnable = [row for row in rows if not row.lacking]
    return max(runnable, key=lambda row: len(row.info.features), default=None)


def table(rows: list[Row], metrics: list[Metric], chosen: Row | None) -> str:
    heads = ["variant", *(f"{metric.title} ÷ native" for metric in metrics), ""]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        remark = f"this processor lacks {', '.join(row.lacking)}" if row.lacking else ""
        remark = "chosen here" if row is chosen else remark
        cells = [row.info.variant, *(row.cell(metric) for metric in metrics), remark]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def save(facts: dict[str, object], rows: list[Row], text: str) -> None:
    stem = RESULTS / f"{machine.file_stem(facts)}-variants"
    ratios = {row.info.variant: dict(row.ratios) for row in rows if row.ratios}
    content = json.dumps({"facts": facts, "ratios": ratios}, indent=2, ensure_ascii=False)
    RESULTS.mkdir(exist_ok=True)
    Path(f"{stem}.json").write_text(content + "\n", encoding="utf-8")
    Path(f"{stem}.md").write_text(f"{text}\n", encoding="utf-8")
    print(f"Written: {stem.name}.json, {stem.name}.md")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="ci/variants",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--libraries", type=Path, required=True, help="the build folder")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repetitions", type=int, default=3, help="within one process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="per second of CPU, not of time")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=["generate_128", "prompt_512"]
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the goal is missed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
