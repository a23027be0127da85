"""No model file may end the process: an error with words, or a model that works.

Files are handled by child processes (tests/exercise.py), many by each. LLAMACFFI_FUZZ_ROUNDS=N
fuzzes N files of each architecture instead of a few.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from llamacffi.errors import ModelFormatError
from llamacffi.gguf_check import check_model_file
from tests import raw_gguf
from tests.hostile_files import fuzzed, hostile_files
from tests.tiny_models import ARCHITECTURES, write_model

ROOT = Path(__file__).parent.parent
ROUNDS = int(os.environ.get("LLAMACFFI_FUZZ_ROUNDS", "30"))
BATCH = 500
CHILD = ("-m", "tests.exercise")
SECONDS_PER_FILE = 60.0  # milliseconds normally; a file that hangs is stopped, and named


def exercise(paths: list[Path], command: tuple[str, ...] = CHILD) -> dict[str, dict[str, Any]]:
    """Run the files through children; what came of each.

    A file that killed or hung the child gets {"died": why}, and another child does the rest.
    """
    results: dict[str, dict[str, Any]] = {}
    left = [str(path) for path in paths]
    while left:
        current, why = _run_child(command, left, results)
        if current is not None:
            results[current] = {"file": current, "died": why}
        elif any(path not in results for path in left):
            pytest.fail(f"the child ended by itself: {why}")
        left = [path for path in left if path not in results]
    return results


def _run_child(
    command: tuple[str, ...], paths: list[str], results: dict[str, dict[str, Any]]
) -> tuple[str | None, str]:
    """Fill in results; the file at which the child died, if it did, and its last words."""
    current = None
    with tempfile.TemporaryFile("w+") as files, tempfile.TemporaryFile("w+") as words:
        files.write("\n".join(paths) + "\n")
        files.seek(0)
        with subprocess.Popen(
            [sys.executable, "-X", "faulthandler", *command],
            cwd=ROOT,
            stdin=files,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
        ) as child:
            assert child.stdout is not None
            watch = threading.Timer(SECONDS_PER_FILE, child.kill)
            watch.start()
            for line in child.stdout:
                watch.cancel()
                watch = threading.Timer(SECONDS_PER_FILE, child.kill)
                watch.start()
                message = json.loads(line)
                current = message.get("begin")
                if current is None:
                    results[message["file"]] = message
        watch.cancel()
        words.seek(0)
        return current, f"exit status {child.returncode}: {words.read()[-2000:]}"


def complaints(results: dict[str, dict[str, Any]], names: dict[str, str]) -> list[str]:
    """What a user would not forgive, by the name of the case."""
    found = []
    for path, result in results.items():
        if "died" in result:
            found.append(f"{names[path]} killed the process: {result['died']}")
        elif "fatal" in result:
            found.append(f"{names[path]} would kill it with more threads: {result['fatal']}")
        elif not result["ok"] and not result["message"].strip():
            found.append(f"{names[path]} was refused without a word")
    return found


def test_hostile_files(tmp_path: Path) -> None:
    good = write_model(tmp_path / "good.gguf")
    names = {str(good): "the good model, behind all the others"}
    paths = []
    for number, (name, content) in enumerate(hostile_files(good.read_bytes())):
        path = tmp_path / f"{number:03}.gguf"
        path.write_bytes(content)
        names[str(path)] = name
        paths.append(path)
    results = exercise([*paths, good])
    assert not complaints(results, names)
    assert results[str(good)]["ok"]
    refused = [result for result in results.values() if not result["ok"]]
    assert len(refused) > 250, "cases do not reach what they are about any more"
    errors = {result["error"] for result in refused}
    assert errors <= {"ModelFormatError", "ModelLoadError", "ContextInitError", "NativeError"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fuzzed_files(tmp_path: Path, architecture: str) -> None:
    good = write_model(tmp_path / "good.gguf", architecture)
    content = good.read_bytes()
    for start in range(0, ROUNDS, BATCH):
        names = {}
        for seed in range(start, min(start + BATCH, ROUNDS)):
            path = tmp_path / f"{seed}.gguf"
            path.write_bytes(fuzzed(content, seed))
            names[str(path)] = f"fuzzed {architecture}, seed {seed}"
        results = exercise([*map(Path, names), good])
        assert not complaints(results, names | {str(good): "the good model, behind the others"})
        assert results[str(good)]["ok"]
        for path in map(Path, names):
            path.unlink()


def test_a_crash_is_noticed_and_named(tmp_path: Path) -> None:
    # The tests above prove nothing if a dead child went unnoticed.
    paths = [tmp_path / name for name in ("fine", "deadly", "fine too")]
    script = """
import json, os, sys
for line in sys.stdin:
    path = line.strip()
    sys.stdout.write(json.dumps({"begin": path}) + "\\n")
    sys.stdout.flush()
    if path.endswith("deadly"):
        os.abort()
    sys.stdout.write(json.dumps({"file": path, "ok": True}) + "\\n")
"""
    results = exercise(paths, ("-c", script))
    assert [results[str(path)].get("ok") for path in paths] == [True, None, True]
    found = complaints(results, {str(path): path.name for path in paths})
    assert len(found) == 1
    assert "deadly killed the process: exit status" in found[0]


CRASHES = [
    ("llama", "blk.0.attn_q.weight", 26),
    ("llama", "output.weight", 28),
    ("llama", "blk.0.ffn_norm.weight", 1),
    ("qwen3moe", "blk.1.ffn_gate_inp.weight", 9),
    ("gpt2", "blk.0.attn_qkv.bias", 8),
    ("mamba", "blk.0.ssm_conv1d.weight", 1),
    ("bert", "token_types.weight", 8),
]


@pytest.mark.parametrize(("architecture", "tensor", "kind"), CRASHES)
def test_check_refuses_types(tmp_path: Path, architecture: str, tensor: str, kind: int) -> None:
    path = write_model(tmp_path / "model.gguf", architecture)
    check_model_file(path)
    raw = raw_gguf.parse(path.read_bytes())
    raw.tensor(tensor).kind = kind
    path.write_bytes(raw.pack())
    with pytest.raises(ModelFormatError, match=tensor):
        check_model_file(path)


@pytest.mark.parametrize(
    ("architecture", "tensor"),
    [
        ("phi3", "blk.1.attn_qkv.weight"),
        ("t5", "enc.blk.0.attn_rel_b.weight"),
        ("t5", "dec.blk.0.attn_rel_b.weight"),
    ],
)
def test_check_refuses_missing_tensors(tmp_path: Path, architecture: str, tensor: str) -> None:
    path = write_model(tmp_path / "model.gguf", architecture)
    check_model_file(path)
    raw = raw_gguf.parse(path.read_bytes())
    raw.tensor(tensor).name = b"renamed"
    path.write_bytes(raw.pack())
    with pytest.raises(ModelFormatError, match=f"{tensor} is missing"):
        check_model_file(path)


@pytest.mark.parametrize("dims", [0, 2, 8, 7, 10, 31, 2**31, 2**32 - 2])
def test_check_rope_dimensions(tmp_path: Path, dims: int) -> None:
    path = write_model(tmp_path / "model.gguf", "gemma3")
    raw = raw_gguf.parse(path.read_bytes())
    raw.set("gemma3.rope.dimension_count", raw_gguf.scalar(raw_gguf.UINT32, dims))
    path.write_bytes(raw.pack())
    if dims in (2, 8):  # the head has 8
        check_model_file(path)
        return
    with pytest.raises(ModelFormatError, match="dimension_count"):
        check_model_file(path)


@pytest.mark.parametrize("epsilon", [-1.0, -1e-30, float("nan")])
def test_check_epsilon(tmp_path: Path, epsilon: float) -> None:
    path = write_model(tmp_path / "model.gguf")
    raw = raw_gguf.parse(path.read_bytes())
    key = "llama.attention.layer_norm_rms_epsilon"
    raw.set(key, raw_gguf.scalar(raw_gguf.FLOAT32, epsilon))
    path.write_bytes(raw.pack())
    with pytest.raises(ModelFormatError, match=key):
        check_model_file(path)


@pytest.mark.parametrize(
    ("tokens", "good"), [([b"a", b"ab", b"\\x41B", b"A"], True), ([b"a", b"bc"], False)]
)
def test_check_rwkv_vocabulary(tmp_path: Path, tokens: list[bytes], good: bool) -> None:
    path = write_model(tmp_path / "model.gguf")
    raw = raw_gguf.parse(path.read_bytes())
    raw.set("tokenizer.ggml.model", raw_gguf.scalar(raw_gguf.STRING, "rwkv"))
    raw.set("tokenizer.ggml.tokens", raw_gguf.array(raw_gguf.STRING, tokens))
    path.write_bytes(raw.pack())
    if good:
        check_model_file(path)
        return
    with pytest.raises(ModelFormatError, match="0x62"):
        check_model_file(path)


def test_check_empty_vocabulary(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf")
    raw = raw_gguf.parse(path.read_bytes())
    raw.set("tokenizer.ggml.model", raw_gguf.scalar(raw_gguf.STRING, "test"))
    raw.set("tokenizer.ggml.tokens", raw_gguf.array(raw_gguf.STRING, []))
    path.write_bytes(raw.pack())
    with pytest.raises(ModelFormatError, match="no tokens"):
        check_model_file(path)
