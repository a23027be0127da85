"""Fitting to the free memory, without a GPU: what is measured, how long a context may be."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamacffi import ContextParams, Fit, Llama, Model
from llamacffi.backends import choose
from llamacffi.errors import (
    ContextInitError,
    DeviceMemoryError,
    ModelLoadError,
    NativeError,
    ParameterError,
    UnsupportedError,
)
from llamacffi.fitting import fit_context, plan_memory
from llamacffi.host_memory import host_memory
from llamacffi.measuring import ModelSource, measure
from llamacffi.memory_plan import in_units
from llamacffi.model_params import ModelParams
from tests.conftest import N_THREADS
from tests.hostile_children import in_children, linux
from tests.tiny_models import ARCHITECTURES, write_model, write_split, write_vocab_only

MIB = 2**20


@pytest.fixture
def room() -> Callable[[int], int]:
    """The margin in MiB that leaves so many MiB of the host's memory."""
    free = host_memory().free // MIB
    return lambda mebibytes: free - mebibytes


# -- measuring ----------------------------------------------------------------------------------


def test_what_is_measured_is_what_is_taken(model: Model) -> None:
    plan = measure(model.source, model.params, ContextParams(n_ctx=512))
    per_token = 2 * 2 * model.n_layer * model.n_head_kv * (model.n_embd // model.n_head)
    assert plan.devices == ()
    assert plan.host.weights == pytest.approx(model.size, rel=0.01)
    assert plan.host.cache == 512 * per_token
    assert plan.host.compute > 0
    assert plan.host.needed == plan.host.weights + plan.host.cache + plan.host.compute
    assert (plan.n_gpu_layers, plan.n_layers) == (0, model.n_layer + 1)
    assert (plan.n_ctx, plan.n_ctx_train, plan.fits) == (512, 8192, True)
    smaller = ContextParams(n_ctx=512, type_k="q8_0", type_v="q8_0")
    assert measure(model.source, model.params, smaller).host.cache == 512 * per_token * 34 // 64


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture(architecture: str, tiny_models: dict[str, Model]) -> None:
    model = tiny_models[architecture]
    plan = plan_memory(model.source, ModelParams("auto"), Fit())
    assert plan.host.weights == pytest.approx(model.size, rel=0.2)
    assert (plan.n_ctx, plan.fits) == (model.n_ctx_train, True)


def test_a_plan_in_words(model: Model) -> None:
    plan = measure(model.source, model.params, ContextParams(n_ctx=512))
    head, row, verdict = str(plan).splitlines()
    assert head.split() == ["device", "total", "free", "needed", "weights", "cache", "compute"]
    assert row.startswith("CPU ")
    assert in_units(plan.host.weights) in row
    assert verdict == "0 of 31 layers on devices; n_ctx 512 (trained for 8192); fits"
    poor = replace(plan, host=replace(plan.host, free=MIB))
    assert str(poor).endswith("; too little memory on CPU")
    assert (poor.fits, plan.as_dict()["fits"], poor.as_dict()["fits"]) == (False, True, False)


def test_measuring_what_cannot_be_loaded(tmp_path: Path) -> None:
    vocab = ModelSource(choose("cpu"), [write_vocab_only(tmp_path / "vocab.gguf")])
    with pytest.raises(NativeError, match="could not be measured: [^$]*token_embd"):
        measure(vocab, ModelParams(), ContextParams(n_ctx=64))


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container(tmp_path: Path, version: int) -> None:
    own, groups = tmp_path / "own", tmp_path / "groups"
    names = {
        1: ("4:memory:/a/b\n0::/\n", "memory/a", "memory.limit_in_bytes", "memory.usage_in_bytes",
            "total_inactive_file"),
        2: ("0::/a/b\n", "a", "memory.max", "memory.current", "inactive_file"),
    }  # fmt: skip
    line, folder, limit, used, kept = names[version]
    own.write_text(line)
    inner = groups / folder / "b"
    inner.mkdir(parents=True)
    (inner / limit).write_text("max\n")
    (inner / used).write_text("5\n")
    assert host_memory(groups, own).total == host_memory().total
    (groups / folder / limit).write_text(f"{100 * MIB}\n")
    (groups / folder / used).write_text(f"{40 * MIB}\n")
    (groups / folder / "memory.stat").write_text(f"anon 7\n{kept} {10 * MIB}\n")
    found = host_memory(groups, own)
    assert (found.total, found.free) == (100 * MIB, 70 * MIB)


# -- contexts -----------------------------------------------------------------------------------


def test_a_context_as_long_as_the_model_was_trained_for(model: Model) -> None:
    with model.context(n_ctx="auto", n_threads=1) as context:
        assert context.n_ctx == model.n_ctx_train == 8192
        assert context.params.n_ctx == 8192


def test_a_context_that_the_memory_has_room_for(
    model: Model, tokens: list[int], room: Callable[[int], int]
) -> None:
    with model.context(n_ctx="auto", fit_margin=room(230), n_ctx_min=512) as context:
        assert 512 < context.n_ctx < 8192
        assert context.n_ctx % 256 == 0
        context.decode_tokens(tokens)
    with model.context(n_ctx="auto", fit_margin=room(0), n_ctx_min=512) as context:
        assert context.n_ctx == 512


def test_each_sequence_gets_the_length(model: Model) -> None:
    for unified, n_ctx in ((False, 3 * 8192), (True, 8192)):
        params = ContextParams(n_ctx="auto", n_seq_max=3, kv_unified=unified)
        found = fit_context(
            model.source, model.params, params, Fit(params, margin=0), False, model.n_ctx_train
        )
        assert found == n_ctx


def test_a_llama_with_a_fitted_context(
    model_path: Path, llama: Llama, room: Callable[[int], int]
) -> None:
    with Llama(
        model_path,
        backend="cpu",
        n_gpu_layers="auto",
        n_ctx="auto",
        fit_margin=room(230),
        n_ctx_min=600,
        n_threads=N_THREADS,
    ) as fitted:
        assert 600 <= fitted.n_ctx() < 8192
        assert fitted.model.plan is None  # there is no GPU
        prompt: dict[str, Any] = {"prompt": "Paris is", "max_tokens": 8, "temperature": 0}
        assert (
            fitted.create_completion(**prompt)["choices"]
            == llama.create_completion(**prompt)["choices"]
        )


def test_embeddings_with_a_fitted_context(tmp_path: Path) -> None:
    path = write_model(tmp_path / "bert.gguf", "bert")
    with Llama(path, backend="cpu", embedding=True, n_ctx="auto", n_gpu_layers="auto") as llama:
        assert llama.n_ctx() == llama.model.n_ctx_train
        assert len(llama.embed("a text")) == llama.n_embd()


def test_a_vocabulary_alone_has_nothing_to_fit(tmp_path: Path) -> None:
    path = write_vocab_only(tmp_path / "vocab.gguf")
    with (
        Model(path, backend="cpu", vocab_only=True, n_gpu_layers="auto") as model,
        pytest.raises(UnsupportedError, match="vocab_only"),
    ):
        model.context(n_ctx="auto")
    with Llama(path, backend="cpu", vocab_only=True, n_ctx="auto", n_gpu_layers="auto") as llama:
        assert llama.n_vocab() > 0


def test_models_in_several_files(tmp_path: Path) -> None:
    first, second = write_split(tmp_path / "split.gguf")
    whole = write_model(tmp_path / "whole.gguf")
    library, context = choose("cpu"), ContextParams(n_ctx=64)
    plans = [
        measure(ModelSource(library, paths), ModelParams(), context)
        for paths in ([whole], [first], [first, second])
    ]
    assert len({plan.host.weights for plan in plans}) == 1
    with (
        Model([first, second], backend="cpu", n_gpu_layers="auto") as model,
        model.context(n_ctx="auto", n_threads=1) as made,
    ):
        assert made.n_ctx == model.n_ctx_train


def test_a_file_that_is_gone_cannot_be_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_model(tmp_path / "gone.gguf")
    with Model(path, backend="cpu") as model:
        path.unlink()
        with model.context(n_ctx="auto", n_ctx_min=64, n_threads=1) as context:
            assert context.n_ctx >= 64
    assert "nothing can be measured" in caplog.text


# -- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["autoo", -5.5, True, None, "4096", [1]])
def test_neither_a_number_nor_auto(model: Model, tiny_path: Path, value: Any) -> None:
    said = r"give a whole number, or .auto."
    with pytest.raises(ParameterError, match=rf"n_ctx=.*{said}"):
        model.context(n_ctx=value)
    with pytest.raises(ParameterError, match=rf"n_ctx=.*{said}"):
        Llama(tiny_path, backend="cpu", n_ctx=value)
    with pytest.raises(ParameterError, match=rf"n_gpu_layers=.*{said}"):
        Llama(tiny_path, backend="cpu", n_gpu_layers=value)
    with pytest.raises(ParameterError, match=rf"n_gpu_layers=.*{said}"):
        Model(tiny_path, backend="cpu", n_gpu_layers=value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"margin": -1}, "margin"),
        ({"margin": 1.5}, "margin"),
        ({"margin": True}, "margin"),
        ({"margin": (1, "2")}, "margin"),
        ({"margin": "1024"}, "margin"),
        ({"margin": ()}, "margin"),
        ({"n_ctx_min": 0}, "n_ctx_min"),
        ({"n_ctx_min": "512"}, "n_ctx_min"),
    ],
)
def test_margins_that_make_no_sense(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        Fit(**arguments)


def test_a_cache_larger_than_the_memory(model: Model, tokens: list[int]) -> None:
    with pytest.raises(DeviceMemoryError, match="GiB for the cache") as caught:
        model.context(n_ctx=2**30)
    (name,) = caught.value.needed
    assert caught.value.needed[name] > 2**40 > caught.value.free[name] > 0
    assert isinstance(caught.value, ContextInitError | ModelLoadError)
    with model.context(n_ctx=256, n_threads=1) as context:
        context.decode_tokens(tokens)


LITTLE_MEMORY = """
import json, resource
from llamacffi import Model

def run(given):
    path, limit, n_ctx = json.loads(given)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with Model(path, backend="cpu") as model:
        status = open("/proc/self/status").read().split()
        used = int(status[status.index("VmData:") + 1]) << 10
        resource.setrlimit(resource.RLIMIT_DATA, (used + (limit << 20), before[1]))
        try:
            with model.context(n_ctx=n_ctx, n_ctx_min=1024, n_threads=1) as context:
                context.decode_tokens([1, 2, 3])
                return context.n_ctx
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)
"""


@linux
def test_memory_that_is_not_there_in_spite_of_what_the_system_says(model_path: Path) -> None:
    cases = {"long": (130, 8192), "auto": (130, "auto"), "none": (4, "auto"), "short": (130, 512)}
    found = in_children(
        LITTLE_MEMORY,
        {name: json.dumps([str(model_path), *case]) for name, case in cases.items()},
        cpu_seconds=30,
    )
    assert found["long"].kind == "DeviceMemoryError", found
    assert re.search(r"CPU needs \d+\.\d MiB and has .* free", found["long"].told)
    assert found["auto"].kind == "ok", found
    assert 1024 <= int(found["auto"].told) < 8192
    assert found["none"].kind == "DeviceMemoryError", found
    assert (found["short"].kind, found["short"].told) == ("ok", "512")
