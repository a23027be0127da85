"""LoRA adapters: they change what is computed, belong to one model, and go in any order."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacffi import Adapter, Context, Model
from llamacffi.errors import AdapterError, ClosedError, LlamaCffiError
from tests.tiny_models import write_lora, write_model

TOKENS = [5, 300, 7, 9]
CLOSE = {"rtol": 2e-2, "atol": 2e-2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model(write_model(tmp_path_factory.mktemp("lora") / "t.gguf"), backend="cpu") as made:
        yield made


@pytest.fixture
def context(tiny: Model) -> Iterator[Context]:
    with tiny.context(n_ctx=64, n_threads=1) as made:
        yield made


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return write_lora(tmp_path / "lora.gguf")


def logits(context: Context) -> Any:
    context.memory.clear()
    context.decode_tokens(TOKENS)
    return context.logits().copy()


def test_an_adapter_changes_the_logits(tiny: Model, context: Context, lora: Path) -> None:
    plain = logits(context)
    adapter = Adapter(tiny, lora)
    context.set_adapters([(adapter, 1.0)])
    changed = logits(context)
    assert not np.allclose(changed, plain, **CLOSE)
    context.set_adapters([(adapter, 0.0)])
    assert np.allclose(logits(context), plain, **CLOSE)
    context.set_adapters([(adapter, 1.0)])
    assert np.allclose(logits(context), changed, **CLOSE)
    context.set_adapters([])
    assert np.allclose(logits(context), plain, **CLOSE)
    assert context.adapters == ()
    adapter.close()


def test_several_adapters(tiny: Model, context: Context, tmp_path: Path) -> None:
    one = Adapter(tiny, write_lora(tmp_path / "one.gguf", seed=1))
    two = Adapter(tiny, write_lora(tmp_path / "two.gguf", seed=2))
    found = []
    for adapters in ([(one, 1.0)], [(two, 1.0)], [(one, 1.0), (two, 1.0)]):
        context.set_adapters(adapters)
        assert context.adapters == tuple(adapters)
        found.append(logits(context))
    assert not np.allclose(found[0], found[1], **CLOSE)
    assert not np.allclose(found[0], found[2], **CLOSE)
    one.close()
    two.close()


def test_what_is_remembered_was_computed_without_it(
    tiny: Model, context: Context, lora: Path
) -> None:
    """The cached keys and values are of the old weights: nothing may be taken for known."""
    logits(context)
    context.set_adapters([(Adapter(tiny, lora), 1.0)])
    assert context.memory.common_prefix(TOKENS) == 0
    context.set_adapters([])  # the module's context would keep the adapter alive


def test_closing_an_adapter_in_use(tiny: Model, context: Context, lora: Path) -> None:
    plain = logits(context)
    adapter = Adapter(tiny, lora)
    context.set_adapters([(adapter, 1.0)])
    adapter.close()
    adapter.close()
    assert context.adapters == ()
    assert np.allclose(logits(context), plain, **CLOSE)
    with pytest.raises(ClosedError):
        context.set_adapters([(adapter, 1.0)])


def test_an_adapter_in_use_is_kept(tiny: Model, context: Context, lora: Path) -> None:
    context.set_adapters([(Adapter(tiny, lora), 1.0)])
    gc.collect()
    changed = logits(context)
    context.set_adapters([])
    gc.collect()
    assert not np.allclose(logits(context), changed, **CLOSE)


def test_closing_the_context_or_the_model_first(lora: Path, tmp_path: Path) -> None:
    model = Model(write_model(tmp_path / "t.gguf"), backend="cpu")
    adapter = Adapter(model, lora)
    with model.context(n_ctx=32, n_threads=1) as context:
        context.set_adapters([(adapter, 1.0)])
    model.close()
    adapter.close()
    with pytest.raises(ClosedError):
        Adapter(model, lora)


def test_an_adapter_of_another_model(context: Context, lora: Path, tmp_path: Path) -> None:
    with Model(write_model(tmp_path / "t.gguf"), backend="cpu") as other:
        adapter = Adapter(other, lora)
        with pytest.raises(AdapterError, match="was loaded for"):
            context.set_adapters([(adapter, 1.0)])
    assert np.isfinite(logits(context)).all()


def test_an_adapter_for_other_shapes(tiny: Model, model: Model, tmp_path: Path, lora: Path) -> None:
    with pytest.raises(AdapterError):
        Adapter(model, lora)  # the real model is wider
    with pytest.raises(AdapterError):
        Adapter(tiny, write_lora(tmp_path / "wide.gguf", n_embd=48))
    with pytest.raises(AdapterError):
        Adapter(tiny, write_lora(tmp_path / "other.gguf", "gpt2"))


def test_files_that_are_no_adapters(tiny: Model, model_path: Path, tmp_path: Path) -> None:
    empty, junk = tmp_path / "empty.gguf", tmp_path / "junk.gguf"
    empty.touch()
    junk.write_bytes(b"GGUF" + bytes(range(200)))
    for path in (tmp_path / "none.gguf", tmp_path, empty, junk, model_path):
        with pytest.raises(AdapterError):
            Adapter(tiny, path)


@pytest.mark.parametrize("size", [10, 100, 300, -1])
def test_an_adapter_cut_short(tiny: Model, lora: Path, size: int) -> None:
    lora.write_bytes(lora.read_bytes()[:size])
    with pytest.raises(AdapterError):
        Adapter(tiny, lora)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf"), 1e38])
def test_odd_scales_do_not_kill(tiny: Model, context: Context, lora: Path, scale: float) -> None:
    adapter = Adapter(tiny, lora)
    try:
        context.set_adapters([(adapter, scale)])
        logits(context)
    except LlamaCffiError:
        pass
    context.set_adapters([])
    assert np.isfinite(logits(context)).all()
    with pytest.raises((TypeError, ValueError)):
        context.set_adapters([(adapter, "much")])  # type: ignore[list-item]
    adapter.close()
