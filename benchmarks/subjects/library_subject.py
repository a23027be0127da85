"""A library file alone, as a subject: the barest loop over llama_decode. See libraries.py."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import timing

from llamacffi.native._llama import ffi

job = timing.read_job()
lib: Any = ffi.dlopen(job["library"], ffi.RTLD_NOW | ffi.RTLD_LOCAL)
threads = job["threads"]
clock = time.process_time if job["cpu_time"] else time.perf_counter


@ffi.callback("ggml_log_callback")
def quiet(level: int, text: Any, user_data: Any) -> None:
    pass


def open_context() -> Any:
    model_params = lib.llama_model_default_params()
    model = lib.llama_model_load_from_file(job["model"].encode(), model_params)
    params = lib.llama_context_default_params()
    params.n_ctx = timing.N_CTX
    params.n_batch = params.n_ubatch = timing.N_BATCH
    params.n_threads = params.n_threads_batch = threads
    params.no_perf = True
    context = lib.llama_init_from_model(model, params)
    assert model != ffi.NULL
    assert context != ffi.NULL
    if job["poll"] is not None:
        pool_params = ffi.new("struct ggml_threadpool_params *")
        lib.ggml_threadpool_params_init(pool_params, threads)
        pool_params.poll = job["poll"]
        pool = lib.ggml_threadpool_new(pool_params)
        lib.llama_attach_threadpool(context, pool, pool)
    return context


def prompt(context: Any, prompt_tokens: list[int]) -> float:
    tokens = ffi.new("llama_token[]", prompt_tokens)
    lib.llama_memory_clear(lib.llama_get_memory(context), False)
    begun = clock()
    assert lib.llama_decode(context, lib.llama_batch_get_one(tokens, len(tokens))) == 0
    return len(tokens) / (clock() - begun)


def generate(context: Any, prompt_tokens: list[int], n_tokens: int) -> float:
    """Greedy, by llama.cpp's own sampler, from the first token to the last."""
    sampler = lib.llama_sampler_init_greedy()
    prompt(context, prompt_tokens)
    token = ffi.new("llama_token[1]")
    token[0] = lib.llama_sampler_sample(sampler, context, -1)
    begun = clock()
    for _ in range(n_tokens - 1):
        assert lib.llama_decode(context, lib.llama_batch_get_one(token, 1)) == 0
        token[0] = lib.llama_sampler_sample(sampler, context, -1)
    seconds = clock() - begun
    lib.llama_sampler_free(sampler)
    return (n_tokens - 1) / seconds


lib.llama_log_set(quiet, ffi.NULL)
lib.llama_backend_init()
context = open_context()
rates = []
for number in range(job["repetitions"] + 1):  # the first one warms up
    tokens = job["prompts"][number % len(job["prompts"])]
    if job["kind"] == "prompt":
        rates.append(prompt(context, tokens))
    else:
        rates.append(generate(context, tokens, job["tokens"] if number else 8))
timing.report(rates[1:])
sys.stdout.flush()
os._exit(0)  # OpenMP's threads never end, and must not find the library unmapped
