"""Fitting layers to devices: on remote ones, which llama.cpp takes for GPUs, with little room."""

from __future__ import annotations

import logging
import resource
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llamacffi import ContextParams, Fit, Llama, Model
from llamacffi.errors import DeviceMemoryError
from llamacffi.fitting import ATTEMPTS, plan_memory
from llamacffi.measuring import measure
from llamacffi.model_params import ModelParams
from llamacffi.native.handle import live_handles
from llamacffi.opening import open_fitted
from tests.conftest import N_THREADS
from tests.rpc_servers import rpc_server
from tests.tiny_models import Sizes, write_model, write_split

MIB = 2**20
PROMPT = "The capital of France is Paris, and the capital of Italy is"
ONE = ("RPC0",)


@dataclass(frozen=True)
class Workers:
    """RPC servers with a device each, and what memory each says to have."""

    endpoints: list[str]
    free: int

    def margin(self, mebibytes: int) -> int:
        """The margin in MiB that leaves so many MiB of each."""
        return self.free // MIB - mebibytes


@pytest.fixture(scope="module")
def workers(tiny_path: Path) -> Iterator[Workers]:
    with rpc_server() as first, rpc_server() as second:
        endpoints = [first.endpoint, second.endpoint]
        with Model(tiny_path, n_gpu_layers=0, rpc_servers=endpoints) as model:
            free = [device.memory_free for device in model.source.devices()]
        yield Workers(endpoints, min(free))


def generated(llama: Llama) -> str:
    return str(llama.create_completion(PROMPT, max_tokens=16, temperature=0)["choices"][0]["text"])


def opened(workers: Workers, path: Path, **arguments: Any) -> Model:
    """A model that is fitted to the first of the workers, if the arguments do not say otherwise."""
    defaults = {"n_gpu_layers": "auto", "devices": ONE, "rpc_servers": workers.endpoints}
    return Model(path, **{**defaults, **arguments})


def test_all_of_it_fits(workers: Workers, model_path: Path) -> None:
    with opened(workers, model_path, fit=Fit(ContextParams(n_ctx=512))) as model:
        assert model.plan is not None
        assert model.params.n_gpu_layers == -1
        assert (model.plan.n_gpu_layers, model.plan.n_layers) == (31, 31)
        (device,) = model.plan.devices
        assert (device.name, device.fits, model.plan.fits) == ("RPC0", True, True)
        assert device.weights > 90 * MIB


def test_some_layers_fit(workers: Workers, model_path: Path) -> None:
    fit = Fit(ContextParams(n_ctx=512), margin=workers.margin(80))
    with opened(workers, model_path, fit=fit) as model:
        assert model.plan is not None
        (device,) = model.plan.devices
        assert 0 < model.plan.n_gpu_layers == model.params.n_gpu_layers < 31
        assert 60 * MIB < device.needed <= 81 * MIB
        # One layer more would not have fitted.
        more = ModelParams(n_gpu_layers=model.plan.n_gpu_layers + 1, devices=ONE)
        assert measure(model.source, more, fit.context).devices[0].needed > 81 * MIB


def test_nothing_fits(workers: Workers, model_path: Path) -> None:
    with opened(workers, model_path, fit=Fit(margin=workers.margin(-1000))) as model:
        assert model.plan is not None
        assert model.params.n_gpu_layers == model.plan.n_gpu_layers == 0
        assert model.plan.devices == ()


def test_the_context_is_shortened_first(workers: Workers, model_path: Path) -> None:
    with opened(workers, model_path, fit=Fit(margin=workers.margin(220), n_ctx_min=512)) as model:
        assert model.plan is not None
        assert model.plan.n_gpu_layers == 31
        assert 512 < model.plan.n_ctx < 8192
        assert model.plan.devices[0].needed <= 221 * MIB
    with opened(workers, model_path, fit=Fit(margin=workers.margin(80), n_ctx_min=512)) as model:
        assert model.plan is not None
        assert 0 < model.plan.n_gpu_layers < 31
        assert model.plan.n_ctx == 512


def test_the_text_is_that_of_the_cpu(workers: Workers, llama: Llama, model_path: Path) -> None:
    arguments: dict[str, Any] = {"n_ctx": 512, "n_threads": N_THREADS}
    arguments |= {"fit_margin": workers.margin(60), "rpc_servers": workers.endpoints}
    with Llama(model_path, **arguments) as fitted:
        plan = fitted.model.plan
        assert plan is not None
        assert 0 < plan.n_gpu_layers < 31
        assert sum(plan.layers) == plan.n_gpu_layers
        assert all(layers > 0 for layers in plan.layers)
        assert f"({plan.layers[0]} + {plan.layers[1]})" in str(plan)
        assert generated(fitted) == generated(llama)


def test_how_the_user_divides_it_stays(workers: Workers, model_path: Path) -> None:
    fit = Fit(ContextParams(n_ctx=512), margin=workers.margin(60))
    with opened(workers, model_path, devices=None, tensor_split=[3, 1], fit=fit) as model:
        assert model.plan is not None
        assert model.params.tensor_split == [3, 1]
        assert 0 < model.plan.n_gpu_layers < 31
        first, second = model.plan.devices
        assert first.cache > 2 * second.cache > 0
        assert max(first.needed, second.needed) <= 61 * MIB


def test_experts_stay_in_the_hosts_memory(workers: Workers, tmp_path: Path) -> None:
    sizes = Sizes(n_layer=4, n_embd=256, n_ff=512, n_expert=8, n_ctx=512)
    path = write_model(tmp_path / "experts.gguf", "qwen3moe", sizes=sizes)
    context = ContextParams(n_ctx=256, n_batch=32, n_threads=1)
    with (
        opened(workers, path, fit=Fit(context, margin=0)) as whole,
        whole.context(**vars(context)) as made,
    ):
        assert whole.plan is not None
        needed = whole.plan.devices[0].needed
        made.decode_tokens([1, 2, 3])
        expected = made.logits().copy()
    assert not whole.plan.buffer_overrides
    with opened(
        workers, path, fit=Fit(context, margin=workers.margin(needed // MIB - 20))
    ) as model:
        assert model.plan is not None
        assert model.plan.buffer_overrides == model.params.buffer_overrides
        assert any("exps" in pattern for pattern in model.plan.buffer_overrides)
        assert "tensors of" in str(model.plan)
        assert model.plan.n_gpu_layers == 5
        assert model.plan.devices[0].needed <= needed - 19 * MIB
        with model.context(**vars(context)) as made:
            made.decode_tokens([1, 2, 3])
            assert made.logits() == pytest.approx(expected, abs=1e-3)


def test_a_model_in_several_files(workers: Workers, tmp_path: Path) -> None:
    parts = write_split(tmp_path / "split.gguf")
    for given in (parts[0], parts):
        with opened(workers, given, fit=Fit(margin=0)) as model:  # type: ignore[arg-type]  # a list, too
            assert model.plan is not None
            assert model.plan.devices[0].weights > 0


def test_an_encoder(workers: Workers, tmp_path: Path) -> None:
    path = write_model(tmp_path / "bert.gguf", "bert")
    arguments: dict[str, Any] = {"n_ctx": "auto", "fit_margin": 0, "n_threads": 1}
    with Llama(path, embedding=True, rpc_servers=workers.endpoints, **arguments) as llama:
        assert llama.model.plan is not None
        assert len(llama.embed("a text")) == llama.n_embd()


def test_a_vocabulary_alone(workers: Workers, model_path: Path) -> None:
    with opened(workers, model_path, vocab_only=True, devices=None) as model:
        assert model.plan is None
        assert model.vocab.n_tokens == 49152


def test_fitting_while_another_model_generates(
    workers: Workers, llama: Llama, model_path: Path
) -> None:
    expected = generated(llama)
    arguments: dict[str, Any] = {"n_gpu_layers": 0, "n_ctx": 256, "n_threads": 1}
    with Llama(model_path, rpc_servers=workers.endpoints, **arguments) as busy:
        texts: list[str] = []
        stop = threading.Event()

        def generate() -> None:
            while not stop.is_set():
                texts.append(generated(busy))

        thread = threading.Thread(target=generate)
        thread.start()
        try:
            fit = Fit(ContextParams(n_ctx=512), margin=workers.margin(80))
            source = busy.model.source
            plans = [plan_memory(source, ModelParams("auto", devices=ONE), fit) for _ in range(2)]
        finally:
            stop.set()
            thread.join()
    assert plans[0].n_gpu_layers == plans[1].n_gpu_layers > 0
    assert set(texts) == {expected}


def test_warnings_are_not_repeated_for_each_measure(
    workers: Workers, model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(workers, model_path, n_gpu_layers=0) as model:
        source = model.source
        with caplog.at_level(logging.INFO, "llamacffi.native"):
            plan_memory(source, ModelParams("auto", devices=ONE), Fit(margin=workers.margin(80)))
    assert not [record for record in caplog.records if record.name == "llamacffi.native"]


def test_a_context_that_finds_too_little_memory(workers: Workers, model_path: Path) -> None:
    before = live_handles()
    layers: list[int] = []

    def make(model: Model) -> str:
        assert model.plan is not None
        layers.append(model.plan.n_gpu_layers)
        if len(layers) < 3:
            raise DeviceMemoryError("No context, as far as this test goes.")
        return "made"

    fit = Fit(ContextParams(n_ctx=512))
    model, made = open_fitted(lambda fit: opened(workers, model_path, fit=fit), make, fit)
    with model:
        assert made == "made"
        assert 31 == layers[0] > layers[1] > layers[2] > 0
    with pytest.raises(DeviceMemoryError):  # with a number, nothing is tried again
        open_fitted(lambda _: opened(workers, model_path, n_gpu_layers=0), _no_context, fit)
    assert live_handles() == before


def _no_context(model: Model) -> str:
    raise DeviceMemoryError(f"No context of {model}, as far as this test goes.")


# -- devices that have less than they say ---------------------------------------------------------


@pytest.fixture
def liar(tiny_path: Path) -> Iterator[list[str]]:
    """One device with 20 MiB, which says that it has all of the machine's memory."""
    with rpc_server() as server:
        with Model(tiny_path, n_gpu_layers=0, rpc_servers=[server.endpoint]):
            (worker,) = server.workers()
            words = Path(f"/proc/{worker.pid}/status").read_text().split()
        used = int(words[words.index("VmData:") + 1]) << 10
        limit = used + 20 * MIB
        # Inherited by the processes that answer its next clients.
        resource.prlimit(server.process.pid, resource.RLIMIT_DATA, (limit, limit))
        yield [server.endpoint]


def test_too_many_layers_asked_for(liar: list[str], model_path: Path) -> None:
    before = live_handles()
    with pytest.raises(DeviceMemoryError, match="RPC0 needs .* and has") as caught:
        Model(model_path, n_gpu_layers=31, rpc_servers=liar)
    assert caught.value.needed["RPC0"] > 90 * MIB
    assert caught.value.free["RPC0"] > 0
    assert live_handles() == before
    with (
        Model(model_path, n_gpu_layers=0, rpc_servers=liar) as model,
        model.context(n_ctx=64) as context,
    ):
        context.decode_tokens([1, 2, 3])


def test_it_is_tried_again_with_less(
    liar: list[str], model_path: Path, llama: Llama, caplog: pytest.LogCaptureFixture
) -> None:
    expected = generated(llama)
    with Llama(model_path, n_ctx=256, n_threads=N_THREADS, rpc_servers=liar) as fitted:
        plan = fitted.model.plan
        assert plan is not None
        assert plan.n_gpu_layers == 0  # the output layer alone is larger
        tried = [record for record in caplog.records if "tried again" in record.message]
        assert 1 <= len(tried) <= ATTEMPTS
        assert "RPC0 needs" in tried[0].message
        assert generated(fitted) == expected
