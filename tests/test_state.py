"""Saved states: loading one is like having decoded its tokens, and no bytes can do harm."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llamacffi
from llamacffi import Adapter, Context, Model
from llamacffi.errors import (
    ClosedError,
    InvalidSequenceError,
    StateError,
    UnsupportedError,
)
from llamacffi.fingerprint import fingerprint
from llamacffi.state_format import MAGIC, PREFIX, Remembered, State, decode
from tests.conftest import Continue
from tests.tiny_models import ARCHITECTURES, write_lora, write_model, write_split

ROOT = Path(__file__).parent.parent
TEXT = "Once upon a time there was a town by the sea, and in it lived an old man who "
GENERATORS = [name for name in ARCHITECTURES if name not in ("t5", "bert")]
OPTIONS: dict[str, Any] = {"n_ctx": 128, "n_threads": 1}
TOKENS = [5, 200, 7, 9, 11, 30, 31, 32, 33, 34] * 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Model]]:
    folder = tmp_path_factory.mktemp("state")
    made = {
        name: Model(write_model(folder / f"{name}.gguf", name), backend="cpu")
        for name in ARCHITECTURES
    }
    yield made
    for model in made.values():
        model.close()


@pytest.fixture
def tiny(models: dict[str, Model]) -> Iterator[Context]:
    with models["llama"].context(**OPTIONS) as made:
        made.decode_tokens(TOKENS)
        yield made


def greedy(context: Context, first: int, count: int, sequence: int = 0) -> list[int]:
    found = [first]
    for _ in range(count):
        context.decode_token(found[-1], context.memory.position_max(sequence) + 1, sequence)
        found.append(int(context.logits().argmax()))
    return found


# -- there and back -------------------------------------------------------------------------------


def test_the_real_model_goes_on_as_without_the_detour(
    model: Model, context: Context, continue_greedily: Continue
) -> None:
    tokens = model.vocab.tokenize(TEXT)
    context.decode_tokens(tokens)
    first = int(context.logits().argmax())
    saved = context.save_state(0)
    expected = continue_greedily(context, 20)
    with model.context(n_ctx=256, n_threads=context.n_threads) as other:
        other.load_state(saved)
        assert other.memory.tokens() == tokens
        assert other.memory.common_prefix([*tokens, 1]) == len(tokens)
        assert (other.memory.position_min(), other.memory.position_max()) == (0, len(tokens) - 1)
        assert greedy(other, first, 19) == expected


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("architecture", GENERATORS)
def test_every_kind_of_memory(models: dict[str, Model], architecture: str, whole: bool) -> None:
    model = models[architecture]
    with model.context(**OPTIONS) as one, model.context(**OPTIONS) as two:
        tokens = [token % model.vocab.n_tokens for token in TOKENS]
        one.decode_tokens(tokens)
        first = int(one.logits().argmax())
        saved = one.save_state(None if whole else 0)
        expected = greedy(one, first, 12)
        two.decode_tokens(tokens[:3])
        two.load_state(saved)
        assert two.memory.tokens() == tokens
        assert two.memory.position_max() == len(tokens) - 1
        assert greedy(two, first, 12) == expected
        one.load_state(saved)  # also over what is there
        assert greedy(one, first, 12) == expected


@pytest.mark.parametrize("unified", [False, True])
def test_sequences(models: dict[str, Model], unified: bool) -> None:
    with models["llama"].context(**OPTIONS, n_seq_max=3, kv_unified=unified) as context:
        context.decode_tokens(TOKENS[:20])
        first = int(context.logits().argmax())
        context.decode_tokens(TOKENS[5:9], sequence=1)
        whole, one = context.save_state(), context.save_state(0)
        expected = greedy(context, first, 5)
        context.load_state(one, 2)
        assert [context.memory.tokens(i)[:21] for i in range(3)] == [
            [*TOKENS[:20], first], TOKENS[5:9], TOKENS[:20],
        ]  # fmt: skip
        assert greedy(context, first, 5, sequence=2) == expected
        context.load_state(whole)
        assert [context.memory.tokens(i) for i in range(3)] == [TOKENS[:20], TOKENS[5:9], []]
        assert greedy(context, first, 5) == expected


def test_nothing_remembered(models: dict[str, Model], tiny: Context) -> None:
    with models["llama"].context(**OPTIONS) as empty:
        for sequence in (0, None):
            saved = empty.save_state(sequence)
            assert len(saved) < 1500
            tiny.decode_tokens([3])
            tiny.load_state(saved)
            assert (tiny.memory.tokens(), tiny.memory.position_max()) == ([], -1)


def test_tokens_that_are_not_known_are_not_claimed(tiny: Context) -> None:
    tiny.memory.forget_tokens()
    tiny.load_state(tiny.save_state(0))
    assert tiny.memory.tokens() == []
    assert tiny.memory.position_max() == len(TOKENS) - 1


@pytest.mark.parametrize("whole", [False, True])
def test_a_state_is_no_larger_than_what_is_remembered(
    model: Model, context: Context, whole: bool
) -> None:
    # llama-cpp-python saves 196,608 bytes of logits with one token of this model.
    context.decode_tokens([1])
    per_token = 2 * 2 * model.n_layer * model.n_embd // model.n_head * model.n_head_kv
    assert per_token < len(context.save_state(None if whole else 0)) < per_token + 2048


@pytest.mark.parametrize("parameters", [
    {"type_k": "q8_0"}, {"flash_attention": "off"}, {"flash_attention": "on", "type_v": "q8_0"},
])  # fmt: skip
def test_other_layouts(model: Model, parameters: dict[str, Any]) -> None:
    tokens = model.vocab.tokenize(TEXT)
    with model.context(n_ctx=64, **parameters) as one, model.context(n_ctx=96, **parameters) as two:
        one.decode_tokens(tokens)
        first = int(one.logits().argmax())
        two.load_state(one.save_state(0))
        assert greedy(two, first, 5) == greedy(one, first, 5)


def test_threads_take_turns(tiny: Context) -> None:
    saved = tiny.save_state(0)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                tiny.load_state(saved)
                assert len(tiny.save_state(0)) == len(saved)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert tiny.memory.tokens() == TOKENS


# -- what does not belong here --------------------------------------------------------------------


def refused(context: Context, data: Any, words: str, sequence: int | None = None) -> None:
    before = context.memory.tokens(), context.save_state()
    with pytest.raises(StateError, match=words):
        context.load_state(data, sequence)
    assert (context.memory.tokens(), context.save_state()) == before, "something has changed"


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
    models: dict[str, Model], tiny: Context, parameters: dict[str, Any], words: str
) -> None:
    with models["llama"].context(**{**OPTIONS, **parameters}) as other:
        other.decode_tokens(TOKENS[:4])
        refused(tiny, other.save_state(0), words)
        refused(tiny, other.save_state(), words)


def test_another_model(tmp_path: Path, models: dict[str, Model], tiny: Context) -> None:
    path = write_model(tmp_path / "other.gguf", "llama", seed=1)
    with Model(path, backend="cpu") as other, other.context(**OPTIONS) as context:
        context.decode_tokens(TOKENS[:4])
        refused(tiny, context.save_state(), r"model: saved 'other.gguf' \(.*here 'llama.gguf'")


def test_adapters(tmp_path: Path, models: dict[str, Model], tiny: Context) -> None:
    plain = tiny.save_state(0)
    adapter = Adapter(models["llama"], write_lora(tmp_path / "lora.gguf"))
    tiny.set_adapters([(adapter, 0.5)])
    refused(tiny, plain, r"LoRA adapters: saved \[\], here \[\['")
    adapted = tiny.save_state(0)
    tiny.load_state(adapted)
    tiny.set_adapters([(adapter, 0.25)])
    refused(tiny, adapted, "LoRA adapters")
    adapter.close()


def test_a_context_too_small(models: dict[str, Model], tiny: Context) -> None:
    with models["llama"].context(n_ctx=512, n_threads=1) as large:
        large.decode_tokens(TOKENS * 8)
        refused(tiny, large.save_state(), "up to position 319; this context holds 256")
        refused(tiny, large.save_state(0), "Use a larger n_ctx")


def test_sequences_that_are_not_here(models: dict[str, Model], tiny: Context) -> None:
    with models["llama"].context(**OPTIONS, n_seq_max=3, kv_unified=True) as three:
        three.decode_tokens(TOKENS[:4], sequence=2)
        refused(tiny, three.save_state(), "has a sequence 2; this context has 0 to 0")
        one = three.save_state(2)
        refused(tiny, tiny.save_state(), "holds a whole context", 0)
        with pytest.raises(InvalidSequenceError):
            tiny.load_state(one)
        with pytest.raises(InvalidSequenceError):
            tiny.load_state(one, 1)
        tiny.load_state(one, 0)
        assert tiny.memory.tokens() == TOKENS[:4]
        with pytest.raises(InvalidSequenceError):
            tiny.save_state(1)


def test_no_room_beside_other_sequences(models: dict[str, Model]) -> None:
    with models["llama"].context(n_ctx=256, n_threads=1, n_seq_max=4, kv_unified=True) as context:
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


def test_encoders_have_nothing_to_save(models: dict[str, Model]) -> None:
    for name, words in (("bert", "has no memory"), ("t5", "has an encoder")):
        with models[name].context(**OPTIONS) as context:
            with pytest.raises(UnsupportedError, match=words):
                context.save_state()
            with pytest.raises(UnsupportedError, match=words):
                context.load_state(models_state(models))


def models_state(models: dict[str, Model]) -> bytes:
    with models["llama"].context(**OPTIONS) as context:
        return context.save_state()


def test_closed(models: dict[str, Model]) -> None:
    context = models["llama"].context(**OPTIONS)
    saved = context.save_state()
    context.close()
    with pytest.raises(ClosedError):
        context.save_state()
    with pytest.raises(ClosedError):
        context.load_state(saved)


# -- damaged and hostile bytes --------------------------------------------------------------------


@pytest.mark.parametrize(("data", "words"), [
    (b"", "it is empty"), (b"GGUF and more", "starts with b'GGUF"), (MAGIC, "cut short"),
    ("text", "not str"), (None, "not NoneType"),
])  # fmt: skip
def test_no_state_at_all(tiny: Context, data: Any, words: str) -> None:
    refused(tiny, data, words)


def test_any_cut_and_any_changed_byte_are_found(tiny: Context) -> None:
    tiny.memory.remove(0, 3)
    saved = tiny.save_state(0)
    places = [*range(700), *range(700, len(saved), 37)]
    for place in places:
        damaged = bytearray(saved)
        damaged[place] ^= 0x41
        for data in (saved[:place], damaged):
            with pytest.raises(StateError):
                tiny.load_state(data)
    with pytest.raises(StateError, match="should have"):
        tiny.load_state(saved + b"\0")
    assert tiny.memory.tokens() == TOKENS[:3]


def test_versions(tiny: Context) -> None:
    saved = bytearray(tiny.save_state(0))
    saved[8] = 99
    refused(tiny, saved, "version 99 of the format; this llamacffi reads 1")
    state = tiny.capture_state(0)
    conditions = {**state.conditions, "llama_cpp": "0123456"}
    other = State(**{**vars(state), "conditions": conditions})
    refused(tiny, b"".join(other.pieces()), "llama.cpp commit: saved 0123456, here [0-9a-f]{7}")


def forged(state: State, native: bytes, **changes: Any) -> bytes:
    """The bytes of a state whose checksum is right, whatever is in it."""
    return b"".join(State(**{**vars(state), "native": memoryview(native), **changes}).pieces())


def test_a_deep_header(tiny: Context) -> None:
    text = b"[" * 200_000
    refused(tiny, PREFIX.pack(MAGIC, 1, len(text), 0, b"") + text, "header makes no sense")


def test_a_position_below_zero(tiny: Context) -> None:
    state = tiny.capture_state(0)
    native = bytearray(state.native)
    at = native.index(np.array([0, 1, 0, 1, 1, 0, 2, 1, 0], "<i4").tobytes()[:12])
    native[at : at + 4] = b"\xff" * 4
    with pytest.raises(StateError, match="out of range: -1") as caught:
        tiny.load_state(forged(state, bytes(native)))
    assert "Sequence 0 is empty now" in str(caught.value)
    assert (tiny.memory.tokens(), tiny.memory.position_max()) == ([], -1)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba", "jamba"])
def test_native_bytes_cut_short_leave_nothing_behind(
    models: dict[str, Model], architecture: str, whole: bool
) -> None:
    # Upstream's reader leaves cells without data where it stops: some of the whole context's, and
    # of a sequence those of the cache beside the sliding window's.
    model = models[architecture]
    tokens = [token % model.vocab.n_tokens for token in TOKENS]
    with model.context(**OPTIONS, n_seq_max=2, kv_unified=True) as context:
        empty = context.save_state()
        context.decode_tokens(tokens[:5], sequence=1)
        beside = context.save_state(1)
        context.decode_tokens(tokens)
        state = context.capture_state(None if whole else 0)
        for cut in (3, 9, 40, 100, 300, len(state.native) // 2, len(state.native) - 1):
            native = bytes(state.native[:cut])
            with pytest.raises(StateError, match=r"empty now"):
                context.load_state(forged(state, native, native_size=len(native)))
            if whole:
                assert context.save_state() == empty
            else:
                assert (context.save_state(1), context.memory.position_max()) == (beside, -1)
                context.memory.remove(1)
                assert context.save_state() == empty
                context.load_state(beside, 1)
        context.load_state(b"".join(state.pieces()))
        assert context.memory.tokens() == tokens


def test_a_head_that_lies_about_positions(tiny: Context) -> None:
    state = tiny.capture_state(0)
    lie = Remembered(0, 0, 50, state.sequences[0].tokens)
    with pytest.raises(StateError, match="from position 0 to 50, and goes from 0 to 39"):
        tiny.load_state(forged(state, bytes(state.native), sequences=(lie,)))
    assert tiny.memory.position_max() == -1


def test_tokens_outside_the_vocabulary(tiny: Context) -> None:
    state = tiny.capture_state(0)
    for token in (-1, 10**6):
        lie = Remembered(0, 0, 39, np.array([token], "<i4"))
        refused(tiny, forged(state, bytes(state.native), sequences=(lie,)), "outside the vocab")


CHILD = """
import random, sys
from llamacffi import Model
from llamacffi.errors import StateError
from llamacffi.state_format import State
path, seed, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
model = Model(path, backend="cpu")
loaded = refused = 0
for n_seq_max, unified in ((1, False), (3, True), (3, False)):
    context = model.context(n_ctx=64, n_threads=1, n_seq_max=n_seq_max, kv_unified=unified)
    tokens = [token % model.vocab.n_tokens for token in range(3, 23)]
    for sequence in range(n_seq_max):
        context.decode_tokens(tokens, sequence=sequence)
    states = [context.capture_state(), context.capture_state(n_seq_max - 1)]
    for _ in range(rounds):
        state = chance.choice(states)
        native = bytearray(state.native)
        # Half of the changes where the numbers are, that is mostly at the start.
        for _ in range(chance.randint(1, 3)):
            span = chance.choice([64, 512, len(native)])
            at = chance.randrange(min(span, len(native) - 4) // 4) * 4
            kind = chance.randrange(4)
            if kind == 0:
                native[at] = chance.randrange(256)
            elif kind == 1:
                value = chance.choice([0, 1, 2, 3, 63, 64, 65, 255, 2**16, 2**29, 2**31, 2**32 - 1])
                native[at : at + 4] = value.to_bytes(4, "little")
            elif kind == 2:
                del native[at : at + chance.choice([1, 4, 8, len(native)])]
            else:
                native[at:at] = native[: chance.randrange(64)]
            if len(native) < 8:
                break
        data = b"".join(State(**{**vars(state), "native": memoryview(native)}).pieces())
        try:
            context.load_state(data, None if state.whole else chance.randrange(n_seq_max))
            loaded += 1
        except StateError:
            refused += 1
        memory = context.memory
        for sequence in range(n_seq_max):
            if memory.position_max(sequence) + 4 < context.n_ctx_seq:
                try:
                    context.decode_tokens([5, 6, 7], sequence=sequence)
                except Exception as error:  # a full memory, gaps: any error but a crash
                    memory.remove(sequence)
            assert memory.position_max(sequence) >= -1
        memory.clear()
        context.load_state(b"".join(states[0].pieces()))
        assert memory.tokens() == tokens
    context.close()
print(loaded, refused)
"""
ROUNDS = int(os.environ.get("LLAMACFFI_FUZZ_ROUNDS", "150"))


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba", "jamba"])
def test_hostile_bytes_end_no_process(models: dict[str, Model], architecture: str) -> None:
    path = models[architecture].path
    command = [sys.executable, "-X", "faulthandler", "-c", CHILD, str(path), "1", str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    loaded, refusals = map(int, done.stdout.split())
    assert loaded + refusals == 3 * ROUNDS
    assert refusals > ROUNDS // 2


# -- the format -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.lists(st.integers(0, 2**31 - 1), max_size=9)),
        max_size=5,
        unique_by=lambda row: row[0],
    ),
    st.binary(max_size=50),
    st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=5), max_size=3),
)
def test_any_state_comes_back(
    rows: list[tuple[int, list[int]]], native: bytes, conditions: dict[str, Any]
) -> None:
    sequences = tuple(
        Remembered(number, 0, len(tokens), np.array(tokens, "<i4")) for number, tokens in rows
    )
    state = State(conditions, {"n": 1}, True, sequences, memoryview(native), len(native))
    data = b"".join(state.pieces())
    again = decode(data)
    assert (again.conditions, again.about, bytes(again.native)) == (conditions, {"n": 1}, native)
    assert [(s.sequence, s.tokens.tolist()) for s in again.sequences] == rows
    assert b"".join(again.pieces()) == data


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 2**64 - 1))
def test_any_bytes_are_refused_in_words(text: bytes, length: int, native: int) -> None:
    for data in (text, MAGIC + text, PREFIX.pack(MAGIC, 1, length, native, b"") + text):
        with pytest.raises(StateError):
            decode(data)


@pytest.mark.parametrize("rows", [
    [[0, 0, 4]], [[0, 0, 4, 9]], [[0, 0, 4, -1]], [[-1, 0, 4, 2]], [[0, 5, 4, 2]],
    [[0, 0, True, 1]], [[0, 0, 2**40, 1]], "x", None, [[0, -2, 4, 1]], [[0, 0, 4, 1], [0, 0, 4, 1]],
])  # fmt: skip
def test_headers_that_make_no_sense(rows: Any) -> None:
    header = {"kind": "whole", "conditions": {}, "about": {}, "sequences": rows}
    text = json.dumps(header).encode()
    with pytest.raises(StateError, match="damaged"):
        decode(PREFIX.pack(MAGIC, 1, len(text), 0, b"") + text)


# -- files ----------------------------------------------------------------------------------------


def test_files(tmp_path: Path, tiny: Context) -> None:
    path = tmp_path / "talk.state"
    tiny.save_state_file(path, 0)
    assert path.read_bytes() == tiny.save_state(0)
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    tiny.memory.clear()
    tiny.load_state_file(path)
    assert tiny.memory.tokens() == TOKENS
    assert [item.name for item in tmp_path.iterdir()] == ["talk.state"]
    with pytest.raises(FileNotFoundError):
        tiny.load_state_file(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        tiny.save_state_file(tmp_path / "no" / "folder")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_the_previous_file_survives(
    tmp_path: Path, tiny: Context, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "talk.state"
    tiny.save_state_file(path)
    before = path.read_bytes()
    tiny.decode_tokens([1])

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space"):
        tiny.save_state_file(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["talk.state"]


def test_damaged_files(tmp_path: Path, tiny: Context) -> None:
    path = tmp_path / "talk.state"
    saved = tiny.save_state(0)
    chance = random.Random(7)
    for cut in [0, 1, 8, 55, 56, 57, *(chance.randrange(len(saved)) for _ in range(20))]:
        path.write_bytes(saved[:cut])
        with pytest.raises(StateError):
            tiny.load_state_file(path)
    path.write_bytes(saved[:-1] + bytes([saved[-1] ^ 1]))
    with pytest.raises(StateError, match="checksum"):
        tiny.load_state_file(path)
    assert tiny.memory.tokens() == TOKENS


# -- fingerprints ---------------------------------------------------------------------------------


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


def test_the_name_is_public() -> None:
    assert llamacffi.errors.StateError is StateError
