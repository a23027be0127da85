"""Parameters of a model: each of them, refused ones, overrides, the vocabulary alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamacffi import Model
from llamacffi.errors import (
    BackendUnavailableError,
    LlamaCffiError,
    ModelFormatError,
    ParameterError,
    UnsupportedError,
)
from tests.models import load, logits_of
from tests.tiny_models import (
    write_vocab_only,
)


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


@pytest.mark.usefixtures("own_choice")
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
        ({"n_gpu_layers": "all"}, ParameterError),
        ({"n_gpu_layers": True}, ParameterError),
        ({"n_gpu_layers": -5.5}, ParameterError),
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
