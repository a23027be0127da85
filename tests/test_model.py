"""Models: facts, metadata, every architecture, and the progress of loading."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from llamacffi import Model
from llamacffi.errors import (
    CancelledError,
)
from tests.models import load
from tests.tiny_models import (
    ARCHITECTURES,
    write_model,
)


def test_facts(model: Model, model_path: Path) -> None:
    assert model.path == model_path
    assert model.architecture == "llama"
    assert "Q4_1" in model.description
    assert model.size == pytest.approx(model_path.stat().st_size, rel=0.05)
    assert model.n_params == pytest.approx(134.5e6, rel=0.01)
    assert (model.n_embd, model.n_embd_inp, model.n_embd_out) == (576, 576, 576)
    assert (model.n_layer, model.n_head, model.n_head_kv) == (30, 9, 3)
    assert (model.n_ctx_train, model.n_swa) == (8192, 0)
    assert model.rope_freq_scale_train == 1.0
    assert (model.has_encoder, model.has_decoder) == (False, True)
    assert (model.is_recurrent, model.is_hybrid, model.is_diffusion) == (False, False, False)
    assert model.decoder_start_token is None
    assert any(device.type == "cpu" for device in model.available_devices)


def test_metadata(model: Model) -> None:
    metadata = model.metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.block_count"] == "30"
    assert metadata["tokenizer.ggml.model"] == "gpt2"
    template = model.chat_template()
    assert template == metadata["tokenizer.chat_template"]
    assert template is not None
    assert len(template) > 256, "it was cut at the buffer's size"
    assert model.chat_template("no such template") is None
    assert all(isinstance(value, str) for value in metadata.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_loads(architecture: str, tmp_path: Path) -> None:
    with load(write_model(tmp_path / "tiny.gguf", architecture)) as tiny:
        assert tiny.architecture == architecture
        assert tiny.has_encoder == (architecture == "t5")  # bert encodes in llama_decode
        assert tiny.is_recurrent == (architecture == "mamba")
        assert bool(tiny.n_swa) == (architecture == "gemma3")
        with tiny.context(n_ctx=64, n_threads=1) as context:
            context.warm_up()


def test_repr(tiny_path: Path) -> None:
    with load(tiny_path) as tiny:
        assert repr(tiny) == f"Model({str(tiny_path)!r})"
    assert repr(tiny) == f"Model({str(tiny_path)!r}, closed)"


# -- progress -------------------------------------------------------------------------------------


def test_progress_rises_to_one(model_path: Path) -> None:
    seen: list[float] = []
    thread: list[int] = []

    def report(fraction: float) -> None:
        seen.append(fraction)
        thread.append(threading.get_ident())

    load(model_path, load_mode="none", progress=report).close()
    assert seen == sorted(seen)
    assert all(0 <= fraction <= 1 for fraction in seen)
    assert seen[-1] == 1.0
    assert set(thread) == {threading.get_ident()}, "it was called in another thread"


def test_progress_cancels(model_path: Path) -> None:
    with pytest.raises(CancelledError, match="cancelled"):
        load(model_path, load_mode="none", progress=lambda fraction: False)
    load(model_path, vocab_only=True, progress=lambda fraction: None).close()


class MineError(Exception):
    pass


def careless(fraction: float) -> bool:
    raise MineError


def careless_at_the_end(fraction: float) -> bool:
    if fraction == 1.0:
        raise MineError
    return True


@pytest.mark.parametrize("progress", [careless, careless_at_the_end])
def test_the_exception_of_a_progress_callable_arrives(
    model_path: Path, progress: Callable[[float], bool]
) -> None:
    """And the model that was loaded by then is freed: 98 MB each time, otherwise."""
    process = psutil.Process()
    with pytest.raises(MineError):
        load(model_path, load_mode="none", progress=progress)
    before = process.memory_info().rss
    for _ in range(4):
        with pytest.raises(MineError):
            load(model_path, load_mode="none", progress=progress)
    gc.collect()
    assert process.memory_info().rss - before < 150e6


def test_a_progress_bar(tiny_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load(tiny_path, progress=True).close()
    assert "Loading tiny.gguf" in capsys.readouterr().err
