"""Lifetimes of a model and its children: closed, forgotten, at exit, in threads."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

from llamacffi import Adapter, Context, Model, SamplerChain
from llamacffi.errors import (
    ClosedError,
)
from llamacffi.native.handle import live_handles
from tests.models import load
from tests.tiny_models import (
    write_lora,
)


def test_the_leak_check_can_fail(
    model: Model, leak_check: Callable[..., AbstractContextManager[None]]
) -> None:
    kept = []
    with pytest.raises(AssertionError, match="sampler chain"), leak_check(patience=0):
        kept.append(SamplerChain(model))
    kept.clear()
    with leak_check():
        SamplerChain(model)


def test_after_close(tiny_path: Path, tmp_path: Path) -> None:
    closed = load(tiny_path)
    lora = write_lora(tmp_path / "lora.gguf")
    closed.close()
    closed.close()
    assert closed.closed
    uses: dict[str, Callable[[], object]] = {
        name: lambda name=name: getattr(closed, name)  # type: ignore[misc]
        for name in dir(Model)
        if isinstance(getattr(Model, name), property) and name not in ("path", "closed", "broken")
    }
    for lasting in ("available_devices", "source"):  # facts of the library and of the files
        del uses[lasting]
    uses |= {
        "vocab": lambda: closed.vocab,
        "metadata": lambda: closed.metadata,
        "context": lambda: closed.context(n_ctx=32),
        "chain": lambda: SamplerChain(closed),
        "adapter": lambda: Adapter(closed, lora),
        "template": closed.chat_template,
    }
    assert len(uses) > 20
    for name, use in uses.items():
        with pytest.raises(ClosedError):
            raise AssertionError(f"{name} gave {use()!r}")


@pytest.mark.parametrize("order", ["model first", "context first", "chain first"])
def test_closing_in_any_order(tiny_path: Path, tmp_path: Path, order: str) -> None:
    before = live_handles()
    model = load(tiny_path)
    context, chain = model.context(n_ctx=32, n_threads=1), SamplerChain(model, ["greedy"])
    adapter = Adapter(model, write_lora(tmp_path / "lora.gguf"))
    context.set_adapters([(adapter, 1.0)])
    context.decode_tokens([5])
    things: list[Any] = [chain, context, adapter, model]
    if order == "model first":
        things.reverse()
    elif order == "context first":
        things = [context, adapter, chain, model]
    for thing in things:
        thing.close()
    for thing in things:
        thing.close()
    assert live_handles() == before


def test_what_is_forgotten_is_freed(tiny_path: Path) -> None:
    before = live_handles()
    model = load(tiny_path)
    context, chain = model.context(n_ctx=32, n_threads=1), SamplerChain(model, ["greedy"])
    context.decode_tokens([5])
    chain.sample(context)
    assert live_handles() != before
    del chain
    gc.collect()
    assert live_handles().get("sampler chain", 0) == before.get("sampler chain", 0)
    del context
    gc.collect()
    assert live_handles().get("context", 0) == before.get("context", 0)
    del model
    gc.collect()
    assert live_handles() == before


def test_a_context_keeps_its_model(tiny_path: Path) -> None:
    context = load(tiny_path).context(n_ctx=32, n_threads=1)
    gc.collect()
    context.decode_tokens([5])
    assert context.logits().shape == (context.model.vocab.n_tokens,)
    context.close()
    context.model.close()


AT_EXIT = """
import sys
import threading
import llamacffi
model = llamacffi.Model(sys.argv[1], backend="cpu")
context = model.context(n_ctx=64, n_threads=2)
chain = llamacffi.SamplerChain(model, ["greedy"])
context.decode_tokens([5])
view = context.logits()
kept = [[model, context, chain, view]]
kept.append(kept)
{more}
"""


@pytest.mark.parametrize(
    "more",
    [
        "",
        "del model",
        "model.close()",
        "sys.exit(0)",
        "import atexit; atexit.register(lambda: context.decode_tokens([6]))",
        "threading.Thread(target=lambda: [context.decode_tokens([6]) for _ in range(60)],"
        " daemon=True).start()",
    ],
)
def test_the_end_of_the_interpreter(tiny_path: Path, more: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", AT_EXIT.format(more=more), str(tiny_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (child.returncode, child.stdout) == (0, "")
    assert "Fatal" not in child.stderr
    assert "Segmentation" not in child.stderr


def test_memory_is_given_back(model_path: Path) -> None:
    process = psutil.Process()

    def once() -> None:
        with load(model_path, load_mode="none") as model, model.context(n_ctx=64, n_threads=1) as c:
            c.decode_tokens([5])

    once()
    before = process.memory_info().rss
    for _ in range(4):
        once()
    assert process.memory_info().rss - before < 100e6


def test_loading_in_several_threads(tiny_path: Path) -> None:
    loaded: list[Model] = []
    threads = [threading.Thread(target=lambda: loaded.append(load(tiny_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(loaded) == 4
    for model in loaded:
        with Context(model, n_ctx=32, n_threads=1) as context:
            context.decode_tokens([5])
        model.close()
