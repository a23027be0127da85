"""States that do not belong to a context are refused, and it stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import llamacffi
from llamacffi import Adapter, Context, Model
from llamacffi.errors import (
    ClosedError,
    InvalidSequenceError,
    StateError,
    UnsupportedError,
)
from tests.states import OPTIONS, TOKENS, refused, remembering
from tests.tiny_models import write_lora, write_model

filled = pytest.fixture(remembering)


@pytest.mark.parametrize(("parameters", "words"), [
    ({"type_k": "f32"}, "type_k: saved f32, here f16"),
    ({"type_v": "bf16", "flash_attention": "on"}, "type_v: saved bf16"),
    ({"flash_attention": "off"}, "flash attention: saved False, here True"),
    ({"n_seq_max": 2}, "separate buffers .*: saved 2, here 1"),
    ({"rope_freq_base": 500.0}, "rope_freq_base: saved 500.0, here 10000.0"),
    ({"rope_scaling": "yarn", "rope_freq_scale": 0.5}, "rope_freq_scale: saved 0.5, here 1.0"),
    ({"attention": "non-causal"}, "causal attention: saved False, here True"),
])  # fmt: skip
def test_other_parameters(
    tiny_models: dict[str, Model], filled: Context, parameters: dict[str, Any], words: str
) -> None:
    with tiny_models["llama"].context(**{**OPTIONS, **parameters}) as other:
        other.decode_tokens(TOKENS[:4])
        refused(filled, other.save_state(0), words)
        refused(filled, other.save_state(), words)


def test_another_model(tmp_path: Path, tiny_models: dict[str, Model], filled: Context) -> None:
    path = write_model(tmp_path / "other.gguf", "llama", seed=1)
    with Model(path, backend="cpu") as other, other.context(**OPTIONS) as context:
        context.decode_tokens(TOKENS[:4])
        refused(filled, context.save_state(), r"model: saved 'other.gguf' \(.*here 'llama.gguf'")


def test_adapters(tmp_path: Path, tiny_models: dict[str, Model], filled: Context) -> None:
    plain = filled.save_state(0)
    adapter = Adapter(tiny_models["llama"], write_lora(tmp_path / "lora.gguf"))
    filled.set_adapters([(adapter, 0.5)])
    refused(filled, plain, r"LoRA adapters: saved \[\], here \[\['")
    adapted = filled.save_state(0)
    filled.load_state(adapted)
    filled.set_adapters([(adapter, 0.25)])
    refused(filled, adapted, "LoRA adapters")
    adapter.close()


def test_a_context_too_small(tiny_models: dict[str, Model], filled: Context) -> None:
    with tiny_models["llama"].context(n_ctx=512, n_threads=1) as large:
        large.decode_tokens(TOKENS * 8)
        refused(filled, large.save_state(), "up to position 319; this context holds 256")
        refused(filled, large.save_state(0), "Use a larger n_ctx")


def test_sequences_that_are_not_here(tiny_models: dict[str, Model], filled: Context) -> None:
    with tiny_models["llama"].context(**OPTIONS, n_seq_max=3, kv_unified=True) as three:
        three.decode_tokens(TOKENS[:4], sequence=2)
        refused(filled, three.save_state(), "has a sequence 2; this context has 0 to 0")
        one = three.save_state(2)
        refused(filled, filled.save_state(), "holds a whole context", 0)
        with pytest.raises(InvalidSequenceError):
            filled.load_state(one)
        with pytest.raises(InvalidSequenceError):
            filled.load_state(one, 1)
        filled.load_state(one, 0)
        assert filled.memory.tokens() == TOKENS[:4]
        with pytest.raises(InvalidSequenceError):
            filled.save_state(1)


def test_no_room_beside_other_sequences(tiny_models: dict[str, Model]) -> None:
    with tiny_models["llama"].context(
        n_ctx=256, n_threads=1, n_seq_max=4, kv_unified=True
    ) as context:
        long = (TOKENS * 4)[:150]
        context.decode_tokens(long)
        saved = context.save_state(0)
        with pytest.raises(StateError, match=r"failed to find 150 .*(\n.*)*Sequence 1 is empty"):
            context.load_state(saved, 1)
        assert (context.memory.tokens(0), context.memory.tokens(1)) == (long, [])
        assert context.memory.position_max(1) == -1
        context.memory.remove(0)
        context.load_state(saved, 1)
        assert context.memory.tokens(1) == long


def test_encoders_have_nothing_to_save(tiny_models: dict[str, Model]) -> None:
    for name, words in (("bert", "has no memory"), ("t5", "has an encoder")):
        with tiny_models[name].context(**OPTIONS) as context:
            with pytest.raises(UnsupportedError, match=words):
                context.save_state()
            with pytest.raises(UnsupportedError, match=words):
                context.load_state(models_state(tiny_models))


def models_state(tiny_models: dict[str, Model]) -> bytes:
    with tiny_models["llama"].context(**OPTIONS) as context:
        return context.save_state()


def test_closed(tiny_models: dict[str, Model]) -> None:
    context = tiny_models["llama"].context(**OPTIONS)
    saved = context.save_state()
    context.close()
    with pytest.raises(ClosedError):
        context.save_state()
    with pytest.raises(ClosedError):
        context.load_state(saved)


def test_the_name_is_public() -> None:
    assert llamacffi.errors.StateError is StateError
