"""Models whose layers are on two workers, real processes on the loopback, work as local ones."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from llamacffi import Engine, Llama, Model
from llamacffi.errors import ParameterError, UnsupportedError
from tests.conftest import N_THREADS
from tests.engines import EXACT, GREEDY
from tests.rpc_servers import RpcProcess, rpc_server, wait_until

PROMPT = "Once upon a time, in a village by the sea,"
MIB = 2**20


@pytest.fixture(scope="module")
def workers() -> Iterator[list[RpcProcess]]:
    with rpc_server() as first, rpc_server() as second:
        yield [first, second]


@pytest.fixture(scope="module")
def addresses(workers: list[RpcProcess]) -> list[str]:
    return [worker.endpoint for worker in workers]


@pytest.fixture(scope="module")
def remote_tiny(exact_path: Path, addresses: list[str]) -> Iterator[Model]:
    with Model(exact_path, backend="cpu", rpc_servers=addresses, tensor_split=[1, 1]) as loaded:
        yield loaded


def logits_of(model: Model, tokens: list[int]) -> np.ndarray:
    with model.context(n_ctx=64, n_threads=1, type_k="f32", type_v="f32") as context:
        context.decode_tokens(tokens)
        return context.logits().copy()


def test_two_workers_hold_half_of_the_layers_each_and_write_the_local_text(
    model_path: Path, addresses: list[str], workers: list[RpcProcess], llama: Llama,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    wait_until(lambda: not any(worker.workers() for worker in workers))
    with (
        caplog.at_level(logging.INFO, "llamacffi.native"),
        Llama(
            model_path, backend="cpu", n_ctx=512, n_threads=N_THREADS,
            rpc_servers=addresses, tensor_split=[1, 1],
        ) as remote,
    ):  # fmt: skip
        sizes = dict(re.findall(r"(RPC\d)\[\S+ model buffer size = +([\d.]+) MiB", caplog.text))
        assert set(sizes) == {"RPC0", "RPC1"}, caplog.text
        first, second = (float(sizes[name]) for name in ("RPC0", "RPC1"))
        layers = float(remote.model.size) / MIB - 22  # without the embeddings, which stay here
        assert first > layers / 3
        assert second > layers / 3
        for worker in workers:
            (process,) = worker.workers()
            assert process.memory_info().rss > 40 * MIB
        told = remote.create_completion(PROMPT, max_tokens=40, temperature=0)
        local = llama.create_completion(PROMPT, max_tokens=40, temperature=0)
        assert told["choices"][0]["text"] == local["choices"][0]["text"]
        assert told["usage"]["completion_tokens"] == 40
        for seed in (1, 2):
            draw = {"max_tokens": 12, "temperature": 1.0, "seed": seed}
            text = remote.create_completion(PROMPT, **draw)["choices"][0]["text"]
            assert text == llama.create_completion(PROMPT, **draw)["choices"][0]["text"]


def test_the_logits_are_the_same(remote_tiny: Model, exact_llama: Llama) -> None:
    tokens = list(range(5, 25))
    np.testing.assert_allclose(
        logits_of(remote_tiny, tokens), logits_of(exact_llama.model, tokens), rtol=1e-5, atol=1e-5
    )


def test_embeddings_are_the_same(tmp_path: Path, addresses: list[str], tiny_bert: Model) -> None:
    with Llama(tiny_bert.path, backend="cpu", embedding=True, n_ctx=64) as local:
        expected = local.embed(["a word", "another"])
    with Llama(
        tiny_bert.path, backend="cpu", embedding=True, n_ctx=64, rpc_servers=addresses
    ) as remote:
        for there, here in zip(remote.embed(["a word", "another"]), expected, strict=True):
            np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)


def test_an_engine_answers_several_at_once(remote_tiny: Model, exact_llama: Llama) -> None:
    prompts = [f"{word} and" for word in ("one", "two", "three")]
    expected = [exact_llama.create_completion(p, **GREEDY)["choices"][0]["text"] for p in prompts]
    engine = Engine(
        remote_tiny, n_parallel=3, n_ctx=256, n_threads=1, flash_attention="off", **EXACT
    )
    with engine, ThreadPoolExecutor(3) as pool:
        found = pool.map(lambda p: engine.create_completion(p, **GREEDY), prompts)
        assert [answer["choices"][0]["text"] for answer in found] == expected


def test_a_state_is_saved_and_loaded(remote_tiny: Model) -> None:
    with remote_tiny.context(n_ctx=64, n_threads=1) as context:
        context.decode_tokens([5, 6, 7, 8])
        saved = context.save_state(0)
        context.decode_tokens([9])
        expected = context.logits().copy()
    with remote_tiny.context(n_ctx=64, n_threads=1) as context:
        context.load_state(saved)
        context.decode_tokens([9])
        np.testing.assert_allclose(context.logits(), expected, rtol=1e-5, atol=1e-5)


def test_contexts_of_one_model_do_not_compute_each_others_graphs(remote_tiny: Model) -> None:
    """Upstream's client asks for "the last graph again", whoever asked for it last."""
    tokens = list(range(5, 25))
    expected = logits_of(remote_tiny, tokens)
    with (
        remote_tiny.context(n_ctx=64, n_threads=1, **EXACT) as one,
        remote_tiny.context(n_ctx=64, n_threads=1, **EXACT) as two,
    ):
        for place, token in enumerate(tokens):
            one.decode_token(token, place)
            two.decode_token(token + 1, place)
            if place == len(tokens) // 2:  # a third one comes and goes: its buffers are freed
                logits_of(remote_tiny, tokens[:3])
        np.testing.assert_allclose(one.logits(), expected, rtol=1e-4, atol=1e-4)
        assert not np.allclose(two.logits(), expected, rtol=1e-4, atol=1e-4)


def test_devices_are_numbered_by_server_and_can_be_named(
    exact_path: Path, addresses: list[str], workers: list[RpcProcess]
) -> None:
    with Model(exact_path, backend="cpu", rpc_servers=addresses, devices=["RPC1"]) as model:
        remote = [device for device in model.available_devices if device.name.startswith("RPC")]
        assert [device.name for device in remote] == ["RPC0", "RPC1"]
        assert [device.description for device in remote] == addresses
        assert all(device.memory_total > 0 for device in remote)
        assert logits_of(model, [5, 6]).size
    with pytest.raises(ParameterError, match="RPC0, RPC1, CPU, not 'RPC2'"):
        Model(exact_path, backend="cpu", rpc_servers=addresses, devices=["RPC2"])


def test_models_without_servers_contact_none(
    exact_path: Path, addresses: list[str], workers: list[RpcProcess]
) -> None:
    def connections() -> list[int]:
        return [worker.text().count("is connected") for worker in workers]

    first, second = connections()
    with Model(exact_path, backend="cpu", rpc_servers=addresses[:1]):
        wait_until(lambda: connections() == [first + 1, second])
        with Model(exact_path, backend="cpu") as local:
            assert all(device.type == "cpu" for device in local.available_devices)
            assert logits_of(local, [5, 6]).size
        time.sleep(0.2)
        assert connections() == [first + 1, second]


def test_models_with_different_servers_are_apart(exact_path: Path, addresses: list[str]) -> None:
    with (
        Model(exact_path, backend="cpu", rpc_servers=addresses[0]) as one,
        Model(exact_path, backend="cpu", rpc_servers=addresses[1]) as two,
    ):
        assert [d.description for d in one.available_devices][:1] == addresses[:1]
        assert [d.description for d in two.available_devices][:1] == addresses[1:]
        np.testing.assert_array_equal(logits_of(one, [5, 6, 7]), logits_of(two, [5, 6, 7]))


def test_nothing_is_left_behind(
    exact_path: Path, addresses: list[str], workers: list[RpcProcess], remote_tiny: Model
) -> None:
    def there() -> tuple[int, int]:
        process = psutil.Process()
        return process.num_threads(), process.num_fds()

    def once() -> None:
        with Model(exact_path, backend="cpu", rpc_servers=addresses) as model:
            logits_of(model, [5, 6])

    once()
    before, served = there(), len(workers[0].workers())
    for _ in range(5):
        once()
    wait_until(lambda: there() <= before)
    wait_until(lambda: len(workers[0].workers()) <= served)


def test_a_vocabulary_needs_no_server(exact_path: Path) -> None:
    with (
        Model(exact_path, backend="cpu", vocab_only=True, rpc_servers=["127.0.0.1:9"]) as model,
        pytest.raises(UnsupportedError),
    ):
        model.context()
