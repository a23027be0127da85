"""Show a build's progress: one status line on a terminal, a line now and then in a log.

Reads the build's output from standard input. If it ends in an error, prints the last lines of it;
the exit status is the build's own (use `set -o pipefail`).
"""

import re
import sys
import time
from collections import deque

STEP = re.compile(r"^\s*\[(\d+)/(\d+)\] (.*)")
LOG_SECONDS = 10.0
TAIL_LINES = 60


def main() -> None:
    """Filter standard input to standard output."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    start = shown = time.monotonic()
    failed = False
    terminal = sys.stdout.isatty()
    for line in sys.stdin:
        tail.append(line)
        failed = failed or line.startswith(("ERROR", "error:", "  error:")) or "FAILED:" in line
        step = STEP.match(line)
        now = time.monotonic()
        if step and (terminal or now - shown >= LOG_SECONDS or step[1] == step[2]):
            shown = now
            text = f"  {step[1]}/{step[2]} after {now - start:.0f} s: {step[3]}"[:100]
            print("\r\x1b[K" + text if terminal else text, end="" if terminal else "\n", flush=True)
    if terminal:
        print()
    if failed:
        sys.stdout.writelines(tail)


if __name__ == "__main__":
    main()
