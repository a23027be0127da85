"""llama.cpp's own llama-bench, as a subject: see timing.py. It neither samples nor makes text."""

from __future__ import annotations

import json
import subprocess

import timing

job = timing.read_job()
n_prompt = len(job["prompts"][0]) if job["kind"] == "prompt" else 0
n_generate = job["tokens"] if job["kind"] == "generate" else 0
command = [job["executable"], "--model", job["model"], "--threads", str(job["threads"])]
command += ["--n-prompt", str(n_prompt), "--n-gen", str(n_generate)]
command += ["--n-gpu-layers", "99"]  # all, where there is a device
command += ["--repetitions", str(job["repetitions"]), "--output", "json"]
result = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
(test,) = json.loads(result.stdout)
timing.report(test["samples_ts"])
