"""Rounds over the servers, alternating, and what comes of them."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.metrics import LLAMA_SERVER, OURS, PEER
from benchmarks.report import Outcome, table
from benchmarks.serving import figures, servers
from benchmarks.serving.scenarios import Scenario
from benchmarks.subject import SubjectError


@dataclass
class Served:
    """The measurements of servers that were made so far.

    Attributes:
        place: The folder set up by ci/bench.
        model: The GGUF file.
        threads: Of each server, for the model.
        outcomes: Of the metrics.
        medians: All figures, for each scenario and server the median of its rounds.
    """

    place: Path
    model: Path
    threads: int
    outcomes: list[Outcome] = field(default_factory=list)
    medians: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)

    def measure(self, scenario: Scenario, rounds: int) -> None:
        """Alternate between the servers of a scenario: A B C, A B C, ..."""
        kinds = servers.from_setup(self.place)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in scenario.servers}
        failure = None
        try:
            for number in range(1, min(rounds, scenario.most_rounds) + 1):
                for name, row in runs.items():
                    row.append(scenario.run(kinds[name], self.model, self.threads))
                    shown = figures.in_words(row[-1])
                    print(f"{scenario.title}, {number}/{rounds}, {name}: {shown}", flush=True)
        except SubjectError as error:
            print(f"{scenario.title}: {error}", file=sys.stderr)
            failure = str(error)
        for name, row in runs.items():
            if row:
                self.medians[scenario.title, name] = {
                    figure: statistics.median(run[figure] for run in row) for figure in row[0]
                }
        for metric in scenario.metrics:
            chosen = {
                name: [run[metric.kind] for run in runs[name]] for name in (OURS, *metric.others)
            }
            self.outcomes.append(Outcome(metric, chosen, failure))

    def tables(self) -> str:
        """The goals, then all figures; nothing if no server was measured."""
        if not self.outcomes:
            return ""
        return f"{table(self.outcomes, (PEER, LLAMA_SERVER))}\n\n{figures.table(self.medians)}"
