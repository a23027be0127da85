"""From raw figures to ratios, verdicts and a Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.metrics import OURS, Goal, Metric


@dataclass(frozen=True)
class Spread:
    """The median of some figures, and how far they lie apart."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(statistics.median(figures), min(figures), max(figures))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.least:.3f}-{self.most:.3f})"


@dataclass
class Outcome:
    """One metric's figures: for each subject, one a round, in the order of the rounds."""

    metric: Metric
    rounds: Mapping[str, Sequence[float]]
    failure: str | None = None

    def value(self, subject: str) -> Spread:
        return Spread.of(self.rounds[subject])

    def ratio(self, other: str) -> Spread:
        """Ours by the other's, round by round, so that the machine's drift cancels."""
        pairs = zip(self.rounds[OURS], self.rounds[other], strict=True)
        return Spread.of([ours / theirs for ours, theirs in pairs])

    def judge(self, goal: Goal) -> tuple[float, bool]:
        """The figure that the goal is about, and whether it is met."""
        spread = self.ratio(goal.against) if goal.against else self.value(OURS)
        return spread.median, goal.met(spread.median)

    def misses(self) -> list[str]:
        if self.failure:
            return [f"{self.metric.title}: not measured"]
        found = []
        for goal in self.metric.goals:
            figure, met = self.judge(goal)
            if not met:
                wanted = goal.describe(self.metric.unit)
                found.append(f"{self.metric.title}: {figure:.3f}, wanted {wanted}")
        return found

    def as_json(self) -> dict[str, object]:
        if self.failure:
            return {"failure": self.failure.splitlines()[0]}
        return {
            "unit": self.metric.unit,
            "rounds": {name: [round(x, 4) for x in row] for name, row in self.rounds.items()},
            "ratios": {other: vars(self.ratio(other)) for other in self.metric.others},
            "goals": [
                {"goal": goal.describe(self.metric.unit), "met": self.judge(goal)[1]}
                for goal in self.metric.goals
            ],
        }


def table(outcomes: Sequence[Outcome], others: Sequence[str]) -> str:
    """The Markdown table: medians, ratios as median (least-most), goals with their verdicts.

    Args:
        outcomes: One line each.
        others: The subjects beside ours that have columns.
    """
    header = ("measurement", "unit", OURS, *others, *(f"÷ {other}" for other in others), "goals")
    lines = [_row(header), _row(["---"] * len(header))]
    for outcome in outcomes:
        metric = outcome.metric
        if outcome.failure:
            lines.append(_row([metric.title, metric.unit, "failed", *[""] * (len(header) - 3)]))
            continue
        present = (OURS, *metric.others)
        values = [
            f"{outcome.value(name).median:.{metric.decimals}f}" if name in present else ""
            for name in (OURS, *others)
        ]
        ratios = [str(outcome.ratio(name)) if name in metric.others else "" for name in others]
        goals = "; ".join(
            f"{goal.describe(metric.unit)} {'met' if outcome.judge(goal)[1] else '**MISSED**'}"
            for goal in metric.goals
        )
        lines.append(_row([metric.title, metric.unit, *values, *ratios, goals]))
    return "\n".join(lines)


def facts_list(facts: Mapping[str, object]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
