"""Fingerprints tell models apart."""

from __future__ import annotations

from pathlib import Path

from llamacffi import Model
from llamacffi.fingerprint import fingerprint
from tests.tiny_models import write_model, write_split


def test_fingerprints_tell_models_apart(tmp_path: Path, model: Model) -> None:
    path = write_model(tmp_path / "a.gguf", "llama")
    prints = {fingerprint([path])}
    assert prints == {fingerprint([path])}
    prints.add(fingerprint([write_model(tmp_path / "b.gguf", "llama", seed=1)]))
    prints.add(fingerprint([write_model(tmp_path / "c.gguf", "llama", chat_template=None)]))
    prints.add(fingerprint([path], {"llama.rope.freq_base": 5.0}))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    (tmp_path / "d.gguf").write_bytes(data)
    prints.add(fingerprint([tmp_path / "d.gguf"]))
    prints.add(model.fingerprint)
    assert len(prints) == 6
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(path.read_bytes())
    assert fingerprint([copy]) == fingerprint([path])


def test_fingerprints_cover_every_part(tmp_path: Path) -> None:
    first, second = write_split(tmp_path / "model.gguf")
    before = fingerprint([first])
    assert before == fingerprint([first, second])
    data = bytearray(second.read_bytes())
    data[-1] ^= 1
    second.write_bytes(data)
    assert fingerprint([first]) != before
