"""Print, as JSON, how a backend continues a prompt, always with the most probable token.

    python ci/generate.py BACKEND [HOST:PORT ...]

Run by ci/backend in the environment of a row; the addresses are those of RPC workers.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import llamacffi

PROMPT = "The capital of France is Paris. The capital of Italy is Rome. The capital of Germany is"
N_TOKENS = 24


def main(backend: str, *workers: str) -> None:
    """Load the test model on a backend, generate, and print the text and the devices."""
    path = os.environ.get("LLAMACFFI_TEST_MODEL", "smollm2")
    remote: dict[str, Any] = {"rpc_servers": list(workers)} if workers else {}
    with llamacffi.Llama(path, backend=backend, n_ctx=128, n_gpu_layers=-1, **remote) as llama:
        made = llama.create_completion(PROMPT, max_tokens=N_TOKENS, temperature=0)
        devices = [device.name for device in llama.model.available_devices]
    print(json.dumps({"text": made["choices"][0]["text"], "devices": devices}))


if __name__ == "__main__":
    main(*sys.argv[1:])
