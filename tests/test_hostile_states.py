"""Damaged and hostile bytes in place of a state: no byte can do harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacffi import Context, Model
from llamacffi.errors import (
    StateError,
)
from llamacffi.state_format import MAGIC, PREFIX, Remembered, State
from tests.states import OPTIONS, TOKENS, refused, remembering

ROOT = Path(__file__).parent.parent
ROUNDS = int(os.environ.get("LLAMACFFI_FUZZ_ROUNDS", "150"))


filled = pytest.fixture(remembering)


@pytest.mark.parametrize(("data", "words"), [
    (b"", "it is empty"), (b"GGUF and more", "starts with b'GGUF"), (MAGIC, "cut short"),
    ("text", "not str"), (None, "not NoneType"),
])  # fmt: skip
def test_no_state_at_all(filled: Context, data: Any, words: str) -> None:
    refused(filled, data, words)


def test_any_cut_and_any_changed_byte_are_found(filled: Context) -> None:
    filled.memory.remove(0, 3)
    saved = filled.save_state(0)
    places = [*range(700), *range(700, len(saved), 37)]
    for place in places:
        damaged = bytearray(saved)
        damaged[place] ^= 0x41
        for data in (saved[:place], damaged):
            with pytest.raises(StateError):
                filled.load_state(data)
    with pytest.raises(StateError, match="should have"):
        filled.load_state(saved + b"\0")
    assert filled.memory.tokens() == TOKENS[:3]


def test_versions(filled: Context) -> None:
    saved = bytearray(filled.save_state(0))
    saved[8] = 99
    refused(filled, saved, "version 99 of the format; this llamacffi reads 1")
    state = filled.capture_state(0)
    conditions = {**state.conditions, "llama_cpp": "0123456"}
    other = State(**{**vars(state), "conditions": conditions})
    refused(filled, b"".join(other.pieces()), "llama.cpp commit: saved 0123456, here [0-9a-f]{7}")


def forged(state: State, native: bytes, **changes: Any) -> bytes:
    """The bytes of a state whose checksum is right, whatever is in it."""
    return b"".join(State(**{**vars(state), "native": memoryview(native), **changes}).pieces())


def test_a_deep_header(filled: Context) -> None:
    text = b"[" * 200_000
    refused(filled, PREFIX.pack(MAGIC, 1, len(text), 0, b"") + text, "header makes no sense")


def test_a_position_below_zero(filled: Context) -> None:
    state = filled.capture_state(0)
    native = bytearray(state.native)
    at = native.index(np.array([0, 1, 0, 1, 1, 0, 2, 1, 0], "<i4").tobytes()[:12])
    native[at : at + 4] = b"\xff" * 4
    with pytest.raises(StateError, match="out of range: -1") as caught:
        filled.load_state(forged(state, bytes(native)))
    assert "Sequence 0 is empty now" in str(caught.value)
    assert (filled.memory.tokens(), filled.memory.position_max()) == ([], -1)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba", "jamba"])
def test_native_bytes_cut_short_leave_nothing_behind(
    tiny_models: dict[str, Model], architecture: str, whole: bool
) -> None:
    # Upstream's reader leaves cells without data where it stops: some of the whole context's, and
    # of a sequence those of the cache beside the sliding window's.
    model = tiny_models[architecture]
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


def test_a_head_that_lies_about_positions(filled: Context) -> None:
    state = filled.capture_state(0)
    lie = Remembered(0, 0, 50, state.sequences[0].tokens)
    with pytest.raises(StateError, match="from position 0 to 50, and goes from 0 to 39"):
        filled.load_state(forged(state, bytes(state.native), sequences=(lie,)))
    assert filled.memory.position_max() == -1


def test_tokens_outside_the_vocabulary(filled: Context) -> None:
    state = filled.capture_state(0)
    for token in (-1, 10**6):
        lie = Remembered(0, 0, 39, np.array([token], "<i4"))
        refused(filled, forged(state, bytes(state.native), sequences=(lie,)), "outside the vocab")


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


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba", "jamba"])
def test_hostile_bytes_end_no_process(tiny_models: dict[str, Model], architecture: str) -> None:
    path = tiny_models[architecture].path
    command = [sys.executable, "-X", "faulthandler", "-c", CHILD, str(path), "1", str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    loaded, refusals = map(int, done.stdout.split())
    assert loaded + refusals == 3 * ROUNDS
    assert refusals > ROUNDS // 2
