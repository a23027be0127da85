"""Measure some servers without comparing them: for trying things out.

    build-bench/ours/bin/python -m benchmarks.serving --place build-bench --model MODEL \\
        --servers llama-server --only server_8 --requests 2
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from benchmarks.serving import figures
from benchmarks.serving.scenarios import SCENARIOS
from benchmarks.serving.servers import from_setup


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scenarios = {scenario.name: scenario for scenario in SCENARIOS}
    parser.add_argument("--place", type=Path, required=True, help="the folder set up by ci/bench")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--servers", type=lambda text: text.split(","), required=True)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(scenarios))
    parser.add_argument("--clients", type=int, help="other than the scenario's")
    parser.add_argument("--requests", type=int, help="of each client, other than the scenario's")
    options = parser.parse_args()
    place, model = options.place.resolve(), options.model.resolve()
    changes = {
        name: getattr(options, name) for name in ("clients", "requests") if getattr(options, name)
    }
    rows = {}
    for name in options.only:
        scenario = dataclasses.replace(scenarios[name], **changes)
        for server in options.servers:
            row = scenario.run(from_setup(place)[server], model, options.threads)
            print(f"{scenario.title}, {server}: {figures.in_words(row)}", flush=True)
            rows[scenario.title, server] = row
    print(figures.table(rows))


if __name__ == "__main__":
    main()
