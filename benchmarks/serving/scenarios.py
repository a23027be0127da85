"""What is asked of the servers, and which goals the figures are held against."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.metrics import LLAMA_SERVER, OURS, PEER, Goal, Metric
from benchmarks.serving import figures
from benchmarks.serving.load import Job
from benchmarks.serving.servers import RunningServer, Server, Setting
from benchmarks.subject import SubjectError

TOKENS = 64
SAMPLE_SECONDS = 0.25
TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Scenario:
    """A load.

    Attributes:
        name: For --only.
        title: For people.
        clients: How many ask at the same time.
        requests: How many each of them makes, one after the other.
        n_ctx: Tokens of context of the server, of all sequences together.
        metrics: What counts; their kinds are names of figures.
        shared_system: Whether all send the same system prompt of 1000 tokens, which the server has
            not seen before.
        n_parallel: Sequences of the others' servers.
        own_parallel: Sequences of ours; None for as many.
        most_rounds: Rounds that are enough.
    """

    name: str
    title: str
    clients: int
    requests: int
    n_ctx: int
    metrics: tuple[Metric, ...]
    shared_system: bool = False
    n_parallel: int = 8
    own_parallel: int | None = None
    most_rounds: int = 100

    @property
    def servers(self) -> list[str]:
        """Whom its metrics compare, ours first."""
        names = [OURS, *(name for metric in self.metrics for name in metric.others)]
        return list(dict.fromkeys(names))

    @property
    def counts_failures(self) -> bool:
        return any(metric.kind == "failures" for metric in self.metrics)

    def run(self, server: Server, model: Path, threads: int) -> dict[str, float]:
        """Start the server, load it, stop it.

        Raises:
            SubjectError: It did not start, or requests failed that the scenario does not count.
        """
        own = self.own_parallel if server.name == OURS else None
        setting = Setting(model, self.n_ctx, own or self.n_parallel, threads)
        with server.started(setting) as running:
            job = Job(
                running.port,
                self.clients,
                self.requests,
                TOKENS,
                self.shared_system,
                server.extras,
            )
            result, memory = load(job, running)
        errors = [record["error"] for record in result["records"] if record["error"]]
        if len(errors) == len(result["records"]) or (errors and not self.counts_failures):
            raise SubjectError(
                f"{server.name}, {self.title}: {len(errors)} of {len(result['records'])} requests "
                f"failed, the first with {errors[0]}"
            )
        return figures.of_run(result, memory)


def load(job: Job, running: RunningServer) -> tuple[dict[str, Any], list[float]]:
    """Run the load in a process of its own; the server's memory meanwhile."""
    command = [sys.executable, "-m", "benchmarks.serving.load", json.dumps(asdict(job))]
    root = Path(__file__).parents[2]
    memory = [running.memory()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as child:
        try:
            for _ in range(int(TIMEOUT_SECONDS / SAMPLE_SECONDS)):
                try:
                    output, _ = child.communicate(timeout=SAMPLE_SECONDS)
                except subprocess.TimeoutExpired:
                    memory.append(running.memory())
                    continue
                if child.returncode:
                    raise SubjectError(f"The load ended with status {child.returncode}.")
                return json.loads(output), memory
        finally:
            child.kill()
    raise SubjectError(f"The load has not ended after {TIMEOUT_SECONDS} s.")


SCENARIOS = (
    Scenario(
        "server_8",
        "server, 8 clients",
        clients=8,
        requests=4,
        n_ctx=8 * 512,
        metrics=(
            Metric(
                "server_8_rate",
                "server, 8 clients",
                "tokens/s",
                "rate",
                (PEER, LLAMA_SERVER),
                (Goal(0.95, True, LLAMA_SERVER), Goal(3, True, PEER)),
            ),
            Metric(
                "server_8_first_token",
                "server, 8 clients, to the first token",
                "ms",
                "first_token",
                (PEER, LLAMA_SERVER),
                (Goal(1, False, LLAMA_SERVER),),
            ),
        ),
    ),
    Scenario(
        "server_1",
        "server, 1 client",
        clients=1,
        requests=8,
        n_ctx=8 * 512,
        metrics=(
            Metric(
                "server_1_rate",
                "server, 1 client",
                "tokens/s",
                "rate",
                (PEER, LLAMA_SERVER),
                (Goal(0.97, True, LLAMA_SERVER),),
            ),
        ),
    ),
    Scenario(
        "server_shared",
        "server, 16 clients, same 1000-token system prompt",
        clients=16,
        requests=3,
        n_ctx=8 * 2048,
        shared_system=True,
        own_parallel=16,  # they share the prompt's cells, so more fit in the same memory
        metrics=(
            Metric(
                "server_shared_rate",
                "server, 16 clients sharing a 1000-token system prompt",
                "tokens/s",
                "rate",
                (LLAMA_SERVER,),
                (Goal(3, True, LLAMA_SERVER),),
            ),
            Metric(
                "server_shared_first_token",
                "the same, to the first token",
                "ms",
                "first_token",
                (LLAMA_SERVER,),
                (Goal(0.1, False, LLAMA_SERVER),),
            ),
        ),
    ),
    # Each asks twice: in the first pass the waits rise from nothing to the length of the queue,
    # whoever is served first; in the second one all wait as long as each other, if it is fair.
    Scenario(
        "server_200",
        "server, 200 clients",
        clients=200,
        requests=2,
        n_ctx=8 * 512,
        most_rounds=1,
        metrics=(
            Metric(
                "server_200_failures",
                "server, 200 clients, failed",
                "requests",
                "failures",
                (),
                (Goal(0, False),),
            ),
            Metric(
                "server_200_fairness",
                "the same, longest wait by the median one",
                "x median",
                "fairness",
                (),
                (Goal(2, False),),
            ),
            Metric(
                "server_200_memory",
                "the same, peak memory of the second half by that of the first",
                "x first half",
                "memory_growth",
                (),
                (Goal(1.05, False),),
            ),
        ),
    ),
)
