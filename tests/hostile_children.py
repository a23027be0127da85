"""Running hostile texts in child processes whose memory and time are limited.

A bug there is the death of the process, so that what a case did is told by the process that it
ran in. Starting one takes longer than most cases: a child takes one after the other, and what
comes after a case that it dies of is left to the next child.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

__all__ = ["Outcome", "in_children", "linux"]

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="limits and measures memory as Linux does"
)

SERVER = """
import json, resource, sys, threading
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
SCRIPT, STACK_KIB, CPU_SECONDS = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
from llamacffi.errors import LlamaCffiError
space = {}
exec(SCRIPT, space)
if STACK_KIB:
    threading.stack_size(STACK_KIB << 10)
told = ""

def work(given):
    global told
    try:
        told = "ok", str(space["run"](given))
    except LlamaCffiError as error:
        told = type(error).__name__, str(error)
    except BaseException as error:
        told = "untyped", repr(error)[:500]

for line in sys.stdin:
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = int(used.ru_utime + used.ru_stime + CPU_SECONDS + 1)
    resource.setrlimit(resource.RLIMIT_CPU, (hard, resource.RLIM_INFINITY))
    open("/proc/self/clear_refs", "w").write("5")
    given = json.loads(line)
    thread = threading.Thread(target=work, args=(given,))
    thread.start()
    thread.join()
    status = open("/proc/self/status").read().split()
    megabytes = int(status[status.index("VmHWM:") + 1]) // 1024
    print(json.dumps([*told, megabytes]), flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    """What a case did.

    Attributes:
        kind: "ok", the name of a typed error, "untyped" or "died".
        told: What the case returned, or the error says.
        megabytes: The most memory that the child had.
    """

    kind: str
    told: str
    megabytes: int = 0


def in_children(
    script: str, cases: Mapping[str, str], *, stack_kib: int = 0, cpu_seconds: float = 20
) -> dict[str, Outcome]:
    """What each case does.

    Args:
        script: Python that defines `run(text)`, which is called for each case.
        cases: Texts by name.
        stack_kib: The stack of the thread that it runs in; 0 for the usual one.
        cpu_seconds: What a case may take, after which the child dies of it.
    """
    outcomes: dict[str, Outcome] = {}
    names, limits = list(cases), (stack_kib, cpu_seconds)
    while len(outcomes) < len(names):
        rest = names[len(outcomes) :]
        child = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", SERVER, script, *map(str, limits)],
            input="".join(json.dumps(cases[name]) + "\n" for name in rest),
            capture_output=True,
            text=True,
            timeout=300,
        )
        lines = child.stdout.splitlines()
        for name, line in zip(rest, lines, strict=False):
            outcomes[name] = Outcome(*json.loads(line))
        if len(lines) < len(rest):
            assert child.returncode, child.stderr
            told = f"with {child.returncode} (-24: too slow): {child.stderr[:300]}"
            outcomes[rest[len(lines)]] = Outcome("died", told)
    return outcomes
