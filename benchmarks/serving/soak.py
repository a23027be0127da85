"""Serve an hour's worth of mixed requests, and see whether anything leaks.

Usually started by ci/soak. Figures are taken of the idle server after the warm-up, half way, and at
the end. It fails, with exit status 1, if

- a request goes otherwise than it should: traffic.py says how each should;
- the server is not idle within 60 s of the last request: requests running or waiting, or less
  sequences idle than after the warm-up, by its /metrics;
- at the end it has more threads or file descriptors than after the warm-up;
- the second half made its resident memory grow by more than 8 MB. (The first half may: caches
  fill up, and the allocator's arenas reach their sizes.)
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.metrics import OURS
from benchmarks.serving.http_client import Address
from benchmarks.serving.servers import RunningServer, Server, Setting, from_setup
from benchmarks.serving.traffic import SHARES, Traffic
from benchmarks.subject import SubjectError

# What an hour of 8 clients with 64 tokens each comes to at 225 tokens/s.
HOUR = 12_600
WARM_UP = 300
CLIENTS = 12  # more than there are sequences: some always wait
N_PARALLEL = 8
N_CTX = N_PARALLEL * 1024
IDLE_SECONDS = 60
SETTLE_SECONDS = 3
GROWTH_MB = 8.0


@dataclass(frozen=True)
class Sample:
    """An idle server's figures."""

    requests: int
    memory: float
    threads: int
    descriptors: int
    gauges: dict[str, float]
    levels: dict[str, float]

    def __str__(self) -> str:
        shown = {**self.gauges, **self.levels}
        gauges = ", ".join(f"{label} {value:g}" for label, value in shown.items())
        return (
            f"after {self.requests} requests: {self.memory:.1f} MB, {self.threads} threads, "
            f"{self.descriptors} descriptors; {gauges}"
        )


async def sample(running: RunningServer, requests: int) -> Sample:
    """Wait until it is idle, or long enough, and look."""
    deadline = time.monotonic() + IDLE_SECONDS
    while any(running.gauges().values()) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    await asyncio.sleep(SETTLE_SECONDS)
    processes = running.processes()
    return Sample(
        requests,
        running.memory(),
        sum(process.num_threads() for process in processes),
        sum(process.num_fds() for process in processes),
        running.gauges(),
        running.levels(),
    )


def leaks(start: Sample, middle: Sample, end: Sample) -> list[str]:
    """The criteria that do not hold."""
    found = [
        f"{value:g} {label} in the idle server, {moment.requests} requests after the start"
        for moment in (start, middle, end)
        for label, value in moment.gauges.items()
        if value
    ]
    found += [
        f"{moment.levels[label]:g} {label} after {moment.requests} requests, {value:g} at the start"
        for moment in (middle, end)
        for label, value in start.levels.items()
        if moment.levels[label] != value
    ]
    if end.threads > start.threads:
        found.append(f"{end.threads} threads at the end, {start.threads} after the warm-up")
    if end.descriptors > start.descriptors:
        found.append(
            f"{end.descriptors} descriptors at the end, {start.descriptors} after the warm-up"
        )
    if end.memory - middle.memory > GROWTH_MB:
        grown = end.memory - middle.memory
        found.append(f"The second half took {grown:.1f} MB of memory; {GROWTH_MB:g} are allowed")
    return found


async def soak(running: RunningServer, requests: int, minutes: float) -> list[str]:
    """Warm up, let two halves flow, and take figures between them; what was wrong."""
    traffic = Traffic(Address("127.0.0.1", running.port), CLIENTS)
    await traffic.flow(WARM_UP, 60 * minutes)
    samples = [await sample(running, traffic.made.total())]
    print(f"start,  {samples[-1]}", flush=True)
    begun = time.monotonic()
    for name in ("middle", "end"):
        await traffic.flow(requests // 2, 30 * minutes)
        samples.append(await sample(running, traffic.made.total()))
        print(f"{name + ',':7} {samples[-1]}", flush=True)
    made = samples[-1].requests - samples[0].requests
    seconds = time.monotonic() - begun
    print(f"{made} requests in {seconds:.0f} s: {made / HOUR:.0%} of an hour's of 8 clients.")
    print(", ".join(f"{kind} {count}" for kind, count in traffic.made.most_common()))
    print(
        f"{len(traffic.failures)} went otherwise than they should.", *traffic.failures[:5], sep="\n"
    )
    missing = [kind.__name__ for kind in SHARES if not traffic.made[kind.__name__]]
    failed = [f"{len(traffic.failures)} requests failed"] if traffic.failures else []
    unmade = [f"There was no time for {', '.join(missing)}"] if missing else []
    return failed + unmade + leaks(*samples)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="ci/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--place", type=Path, required=True, help="the folder set up by ci/bench")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10, help="at most (default: 10)")
    parser.add_argument("--requests", type=int, default=HOUR, help=f"at most (default: {HOUR})")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--server", default=OURS, help="another one, to try this itself out")
    options = parser.parse_args()
    server: Server = from_setup(options.place.resolve())[options.server]
    if not server.gauges:
        parser.error(f"{server.name} has no /metrics")
    setting = Setting(options.model.resolve(), N_CTX, N_PARALLEL, options.threads)
    try:
        with server.started(setting) as running:
            wrong = asyncio.run(soak(running, options.requests, options.minutes))
    except SubjectError as error:
        wrong = [str(error)]
    for line in wrong:
        print(f"WRONG: {line}")
    print("failed" if wrong else "passed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
