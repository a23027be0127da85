"""Loading: facts, every parameter, files that are no models, lifetimes."""

from __future__ import annotations

import gc
import os
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
    BackendUnavailableError,
    CancelledError,
    ClosedError,
    LlamaCffiError,
    ModelFormatError,
    ModelLoadError,
    ModelNotFoundError,
    ParameterError,
    UnsupportedError,
)
from llamacffi.native.handle import live_handles
from tests.tiny_models import (
    ARCHITECTURES,
    write_lora,
    write_model,
    write_split,
    write_vocab_only,
)


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


def load(path: Any, **parameters: Any) -> Model:
    return Model(path, backend="cpu", **parameters)


def logits_of(model: Model) -> list[float]:
    with model.context(n_ctx=32, n_threads=1) as context:
        context.decode_tokens([5, 300, 7])
        return [float(value) for value in context.logits()]


# -- facts ----------------------------------------------------------------------------------------


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


# -- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"load_mode": "auto"}, {"load_mode": "none"}, {"load_mode": "mmap"},
        {"load_mode": "mlock"}, {"load_mode": "mmap+mlock"}, {"load_mode": "direct-io"},
        {"lazy_mode": "auto"}, {"lazy_mode": "on"}, {"check_tensors": True},
        {"use_extra_buffers": False}, {"no_host": True}, {"load_mtp": True},
        {"n_gpu_layers": 0}, {"n_gpu_layers": 1000}, {"split_mode": "none"}, {"split_mode": "row"},
        {"tensor_split": [1.0]}, {"tensor_split": []}, {"devices": ["CPU"]}, {"devices": []},
        {"buffer_overrides": {"blk": "CPU"}}, {"buffer_overrides": {r"blk\.1\.ffn_.*": "CPU"}},
        {"metadata_overrides": {}}, {"progress": False},
    ],
    ids=str,
)  # fmt: skip
def test_parameters_change_no_result(tiny_path: Path, parameters: dict[str, Any]) -> None:
    with load(tiny_path) as plain, load(tiny_path, **parameters) as tiny:
        assert logits_of(tiny) == pytest.approx(logits_of(plain), abs=1e-2)


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"split_mode": "column"}, ParameterError),
        ({"split_mode": 1}, ParameterError),
        ({"split_mode": ["layer"]}, ParameterError),
        ({"load_mode": "fast"}, ParameterError),
        ({"lazy_mode": ""}, ParameterError),
        ({"main_gpu": 3}, ParameterError),
        ({"main_gpu": -1}, ParameterError),
        ({"tensor_split": [-1.0]}, ParameterError),
        ({"tensor_split": [float("nan")]}, ParameterError),
        ({"tensor_split": [1.0] * 1000}, ParameterError),
        ({"devices": ["GPU77"]}, ParameterError),
        ({"devices": "CPU"}, ParameterError),
        ({"buffer_overrides": {"blk": "VRAM"}}, ParameterError),
        ({"buffer_overrides": {"(": "CPU"}}, ParameterError),
        ({"metadata_overrides": {"k" * 128: 1}}, ParameterError),
        ({"metadata_overrides": {"": 1}}, ParameterError),
        ({"metadata_overrides": {"k\0": 1}}, ParameterError),
        ({"metadata_overrides": {"k": "v" * 128}}, ParameterError),
        ({"metadata_overrides": {"k": None}}, TypeError),
        ({"metadata_overrides": {"k": [1]}}, TypeError),
        ({"n_gpu_layers": 2**40}, (ParameterError, OverflowError)),
        ({"n_gpu_layers": "all"}, TypeError),
        ({"backend": "abacus"}, BackendUnavailableError),
        ({"n_ctx": 5}, TypeError),
    ],
)
def test_refused_parameters(
    tiny_path: Path, parameters: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Model(tiny_path, **{"backend": "cpu", **parameters})


def test_a_buffer_override_that_only_one_regex_dialect_knows(tiny_path: Path) -> None:
    """Python's re takes it, ECMAScript does not: an error, not the end of the process."""
    with pytest.raises(LlamaCffiError):
        load(tiny_path, buffer_overrides={r"(?P<name>blk)": "CPU"})


def test_metadata_overrides(tiny_path: Path) -> None:
    overrides = {
        "tokenizer.ggml.add_bos_token": False,
        "llama.context_length": 77,
        "llama.rope.freq_base": 5000.0,
        "general.name": "renamed é",
    }
    with load(tiny_path) as plain, load(tiny_path, metadata_overrides=overrides) as tiny:
        assert plain.vocab.add_bos
        assert not tiny.vocab.add_bos
        assert plain.vocab.tokenize("hello") == [plain.vocab.bos, *tiny.vocab.tokenize("hello")]
        assert tiny.n_ctx_train == 77
        assert logits_of(tiny) != pytest.approx(logits_of(plain), abs=1e-5)


def test_an_override_of_the_wrong_type(tiny_path: Path) -> None:
    with pytest.raises(ParameterError, match="'many'; the file has a int"):
        load(tiny_path, metadata_overrides={"llama.context_length": "many"})


def test_an_override_that_is_too_large(tiny_path: Path) -> None:
    with pytest.raises((ParameterError, OverflowError)):
        load(tiny_path, metadata_overrides={"llama.context_length": 2**64})


def test_vocabulary_only(model_path: Path) -> None:
    with load(model_path, vocab_only=True) as bare:
        assert bare.vocab.detokenize(bare.vocab.tokenize("Hello")) == "Hello"
        assert bare.architecture == "llama"
        with pytest.raises(UnsupportedError, match="vocab_only"):
            bare.context(n_ctx=32)


def test_a_file_without_weights(tmp_path: Path) -> None:
    path = write_vocab_only(tmp_path / "vocab.gguf")
    with pytest.raises(ModelFormatError, match="vocab_only"):
        load(path)
    with load(path, vocab_only=True) as bare:
        assert bare.vocab.tokenize("hello")


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


# -- files ----------------------------------------------------------------------------------------


def test_a_split_model(tmp_path: Path, tiny_path: Path) -> None:
    parts = write_split(tmp_path / "split.gguf")
    assert all(part.is_file() for part in parts)
    with load(tiny_path) as whole:
        wanted = logits_of(whole)
    with load(parts[0]) as model:
        assert logits_of(model) == wanted
    own_names = [part.rename(tmp_path / f"{name}.gguf") for part, name in zip(parts, "ab")]  # noqa: B905
    with load(own_names) as model:
        assert model.paths == own_names
        assert logits_of(model) == wanted
    with load([tiny_path]) as model:
        assert logits_of(model) == wanted


def test_a_split_model_with_a_part_missing(tmp_path: Path) -> None:
    first, second = write_split(tmp_path / "split.gguf")
    second.unlink()
    with pytest.raises(LlamaCffiError, match="split"):
        load(first)
    with pytest.raises(ModelLoadError):
        load([first, second])


def test_the_wrong_parts(tmp_path: Path, tiny_path: Path) -> None:
    first, second = write_split(tmp_path / "split.gguf")
    for files in ([first, tiny_path], [second, first], [first, first], [second]):
        with pytest.raises(ModelLoadError):
            load(files)


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", str(tmp_path / "none.gguf"), "no-such-alias", "", []):
        with pytest.raises(ModelNotFoundError):
            load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.gguf")


@pytest.mark.parametrize("path", [None, 5, 1.5, [None]])
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(TypeError):
        load(path)


def test_a_path_with_a_nul_character() -> None:
    with pytest.raises(ModelNotFoundError):
        load("a\0b.gguf")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"folder|not a file"):
        load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"GGU", b"not a model at all", b"\x80\x02}q\x00.", b"GGML" * 20]
)
def test_not_a_gguf_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match="not a GGUF file"):
        load(path)


@pytest.mark.parametrize("size", [4, 8, 24, 100, 5000, 20_000, -1])
def test_cut_short(tmp_path: Path, tiny_path: Path, size: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_path.read_bytes()[:size])
    with pytest.raises(ModelFormatError):
        load(path)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_an_unreadable_file(tmp_path: Path, tiny_path: Path) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(tiny_path.read_bytes())
    path.chmod(0)
    with pytest.raises(ModelLoadError, match="permission"):
        load(path)


def test_a_name_that_is_not_ascii(tmp_path: Path, tiny_path: Path) -> None:
    path = tmp_path / "モデル é.gguf"
    path.write_bytes(tiny_path.read_bytes())
    with load(path) as model:
        assert model.path == path


# -- lifetimes ------------------------------------------------------------------------------------


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
        if isinstance(getattr(Model, name), property) and name not in ("path", "closed")
    }
    del uses["available_devices"]  # a fact of the library, which stays
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
