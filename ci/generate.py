"""Print, as JSON, how a backend continues a prompt, always with the most probable token.

    python ci/generate.py BACKEND [NUMBER_OF_RPC_WORKERS]

Run by ci/backend in the environment of a row.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import llamacffi

ROOT = Path(__file__).resolve().parent.parent
# More than 32 tokens, since BLAS takes only products that large. It goes on in one way: the best
# token leads by 1.4 in log probability, where the digits of other kernels make some 0.2.
MONTHS = (
    "January, February, March, April, May, June, "
    "July, August, September, October, November, December, "
)
PROMPT = MONTHS * 2 + "January,"
N_TOKENS = 24


def main(backend: str, n_workers: int) -> None:
    """Load the test model, generate, and print the text."""
    path = os.environ.get("LLAMACFFI_TEST_MODEL", "smollm2")
    with ExitStack() as opened:
        options: dict[str, Any] = {"n_ctx": 128, "n_gpu_layers": -1}
        if n_workers:
            sys.path.insert(0, str(ROOT))
            rpc_server = importlib.import_module("tests.rpc_servers").rpc_server
            workers = [opened.enter_context(rpc_server()) for _ in range(n_workers)]
            options["rpc_servers"] = [worker.endpoint for worker in workers]
        llama = opened.enter_context(llamacffi.Llama(path, backend=backend, **options))
        made = llama.create_completion(PROMPT, max_tokens=N_TOKENS, temperature=0)
    print(json.dumps({"text": made["choices"][0]["text"]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
