"""From what each request took to the figures of a run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# A run's figures: name, unit, decimals; the order of the table.
SHOWN = (
    ("rate", "tokens/s", 1),
    ("first_token", "first token, ms", 0),
    ("first_token_95", "95%", 0),
    ("gap", "gap, ms", 1),
    ("gap_99", "99%", 0),
    ("fairness", "longest ÷ median wait", 2),
    ("failures", "failed", 0),
    ("memory", "peak memory, MB", 0),
    ("memory_growth", "memory, 2nd ÷ 1st half", 3),
    ("prompt_tokens", "prompt tokens", 0),
    ("load_cpu", "processors taken by the load", 3),
)


def of_run(result: Mapping[str, Any], memory: Sequence[float]) -> dict[str, float]:
    """The figures of one run.

    Args:
        result: What load.py prints.
        memory: The server's resident megabytes, sampled evenly from start to end.
    """
    records = result["records"]
    good = [record for record in records if record["error"] is None]
    waits = [record["arrivals"][0] for record in good]
    gaps = [
        after - before
        for record in good
        for before, after in zip(record["arrivals"], record["arrivals"][1:], strict=False)
    ]
    half = max(1, len(memory) // 2)
    return {
        "rate": sum(record["tokens"] for record in good) / result["seconds"],
        "first_token": 1e3 * percentile(waits, 50),
        "first_token_95": 1e3 * percentile(waits, 95),
        "gap": 1e3 * percentile(gaps, 50),
        "gap_99": 1e3 * percentile(gaps, 99),
        "fairness": max(waits) / percentile(waits, 50),
        "failures": len(records) - len(good),
        "memory": max(memory),
        "memory_growth": max(memory[half:] or memory) / max(memory[:half]),
        "prompt_tokens": statistics.median(record["prompt_tokens"] for record in good),
        "load_cpu": result["cpu_share"],
    }


def percentile(figures: Sequence[float], percent: float) -> float:
    """The figure that so many percent of them do not exceed; between two, interpolated."""
    ordered = sorted(figures)
    place = percent / 100 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def in_words(figures: Mapping[str, float]) -> str:
    """The figures that one looks at while it runs."""
    return (
        f"{figures['rate']:.1f} tokens/s, first token {figures['first_token']:.0f} ms, "
        f"{figures['memory']:.0f} MB, {figures['failures']} failed"
    )


def table(rows: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    """All figures of each scenario and server as Markdown."""
    heads = ["scenario", "server", *(unit for _, unit, _ in SHOWN)]
    lines = [heads, ["---"] * len(heads)]
    for (scenario, server), figures in rows.items():
        cells = [f"{figures[name]:.{decimals}f}" for name, _, decimals in SHOWN]
        lines.append([scenario, server, *cells])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
