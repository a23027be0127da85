"""Headers of GGUF files: metadata in Python's types, and tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llamacffi import Model
from llamacffi.errors import ClosedError, ModelFormatError
from llamacffi.gguf import GGUFFile
from llamacffi.native.library import Library

SCALARS: dict[str, Any] = {
    "uint8": 255, "int8": -128, "uint16": 65_535, "int16": -32_768, "uint32": 2**32 - 1,
    "int32": -(2**31), "uint64": 2**64 - 1, "int64": -(2**63), "float32": 0.5, "float64": 1e-300,
    "bool": True, "string": "é 🦙\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def library(model: Model) -> Library:
    return model.library


@pytest.fixture
def every_type(tmp_path: Path) -> Path:
    path = tmp_path / "types.gguf"
    writer = gguf.GGUFWriter(path, "test")
    for name, value in SCALARS.items():
        getattr(writer, f"add_{name}")(f"t.{name}", value)
    writer.add_array("t.numbers", [1, 2, 3])
    writer.add_array("t.words", ["a", "é", ""])
    writer.add_array("t.flags", [True, False])
    writer.add_array("t.floats", [0.5, -1.0])
    writer.add_array("t.long", list(range(1000)))
    writer.add_array("t.many", ["x"] * 9)
    writer.add_tensor("one", np.zeros((3, 32), np.float32))
    writer.add_tensor("two", np.zeros(64, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_every_type(library: Library, every_type: Path) -> None:
    with GGUFFile(library, every_type) as file:
        found = file.metadata()
        for name, value in SCALARS.items():
            assert found[f"t.{name}"] == value
            assert type(found[f"t.{name}"]) is type(value)
        assert found["t.numbers"] == [1, 2, 3]
        assert found["t.words"] == ["a", "é", ""]
        assert found["t.flags"] == [True, False]
        assert found["t.floats"] == [0.5, -1.0]
        assert found["t.long"].startswith("array of 1000 ")
        assert found["t.many"] == "array of 9 strings"
        assert file.metadata(max_items=1000)["t.long"] == list(range(1000))
        assert file.array_length("t.long") == 1000
        assert file.array_length("t.uint8") is None
        assert file.array_length("t.none") is None
        assert file.version == 3


def test_tensors(library: Library, every_type: Path) -> None:
    with GGUFFile(library, every_type) as file:
        one, two = file.tensors()
    assert (one.name, one.type, one.n_elements, one.size) == ("one", "f32", 96, 384)
    assert (two.name, two.type, two.n_elements, two.size) == ("two", "f16", 64, 128)


def test_the_real_model(library: Library, model: Model, model_path: Path) -> None:
    with GGUFFile(library, model_path) as file:
        metadata, tensors = file.metadata(), file.tensors()
    assert metadata["llama.block_count"] == model.n_layer
    assert metadata["tokenizer.ggml.tokens"] == "array of 49152 strings"
    assert metadata["tokenizer.chat_template"] == model.chat_template()
    assert sum(tensor.n_elements for tensor in tensors) == model.n_params
    assert sum(tensor.size for tensor in tensors) == model.size


def test_after_close(library: Library, every_type: Path) -> None:
    file = GGUFFile(library, every_type)
    file.close()
    file.close()
    for use in (
        file.metadata,
        file.tensors,
        lambda: file.version,
        lambda: file.array_length("t.long"),
    ):
        with pytest.raises(ClosedError):
            use()


def test_files_that_are_none(library: Library, tmp_path: Path, every_type: Path) -> None:
    path = tmp_path / "x.gguf"
    with pytest.raises(ModelFormatError):
        GGUFFile(library, path)
    with pytest.raises(ModelFormatError):
        GGUFFile(library, tmp_path)
    whole = every_type.read_bytes()
    for content in (b"", b"GGUF", b"junk" * 50, whole[:40], whole[:200]):
        path.write_bytes(content)
        with pytest.raises(ModelFormatError, match="GGUF"):
            GGUFFile(library, path)
