"""The three locks of the border, as a user meets them: a library that does not match is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llamacffi.backends import choose
from llamacffi.errors import BackendUnavailableError, LibraryMismatchError
from llamacffi.native import layout
from llamacffi.native.library import Library, declared_commit, open_library, read_info


@pytest.fixture
def cpu_library() -> Library:
    return choose("cpu")


@pytest.fixture
def doctored(cpu_library: Library, tmp_path: Path) -> Path:
    """A copy of the real library whose compiled-in commit is another one."""
    data = cpu_library.path.read_bytes()
    commit = declared_commit().encode()
    assert data.count(commit) >= 1
    path = tmp_path / cpu_library.path.name
    path.write_bytes(data.replace(commit, b"f" * len(commit)))
    return path


def test_library_is_opened_once_and_matches(cpu_library: Library) -> None:
    assert open_library(cpu_library.path) is cpu_library
    assert cpu_library.commit == declared_commit()
    assert layout.differences(cpu_library.ffi, cpu_library.lib) == []


def test_library_of_another_commit_is_refused_with_both_named(doctored: Path) -> None:
    with pytest.raises(LibraryMismatchError) as caught:
        open_library(doctored)
    assert "f" * 40 in str(caught.value)
    assert declared_commit() in str(caught.value)


def _place_in_file(address: int) -> int:
    """Where in its file the mapped byte at an address comes from (Linux)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, *_ = line.split()
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return address - start + int(offset, 16)
    raise AssertionError("not mapped")


def test_library_with_another_layout_is_refused(cpu_library: Library, tmp_path: Path) -> None:
    """Doctor the size of a field in a copy's layout table: it is refused, naming the field."""
    ffi = cpu_library.ffi
    rows = cpu_library.lib.llamacffi_layout(ffi.new("int32_t *"))
    index = next(i for i in range(1000) if rows[i].field and ffi.string(rows[i].field) == b"n_ctx")
    place = _place_in_file(int(ffi.cast("uintptr_t", ffi.addressof(rows[index], "size"))))
    data = bytearray(cpu_library.path.read_bytes())
    assert data[place : place + 8] == (4).to_bytes(8, "little")
    data[place] = 8
    path = tmp_path / cpu_library.path.name
    path.write_bytes(data)
    with pytest.raises(LibraryMismatchError, match=r"llama_context_params\.n_ctx.* 8 bytes"):
        open_library(path)


def test_layout_comparison_sees_sizes_offsets_and_values(cpu_library: Library) -> None:
    """Each kind of row, doctored one by one, gives exactly one difference."""
    ffi, lib = cpu_library.ffi, cpu_library.lib
    count = ffi.new("int32_t *")
    real = ffi.unpack(lib.llamacffi_layout(count), count[0])
    rows = ffi.new("struct llamacffi_layout_row[]", len(real))

    class Doctored:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def llamacffi_layout(self, n_rows: object) -> object:
            n_rows[0] = len(real)  # type: ignore[index]
            return rows

    kinds = {
        "struct": next(i for i, row in enumerate(real) if not row.field and row.offset == 0),
        "field": next(i for i, row in enumerate(real) if row.field),
        "constant": next(i for i, row in enumerate(real) if row.offset < 0),
    }
    for index in kinds.values():
        for i, row in enumerate(real):
            rows[i] = row
        rows[index].size += 1
        assert len(layout.differences(ffi, Doctored())) == 1
    rows[kinds["field"]].offset += 8
    rows[kinds["constant"]].size = real[kinds["constant"]].size
    assert len(layout.differences(ffi, Doctored())) == 1


def test_file_that_is_no_library(tmp_path: Path) -> None:
    path = tmp_path / "libllama-cpu-broken.so"
    path.write_bytes(b"not a library")
    with pytest.raises(BackendUnavailableError, match="libllama-cpu-broken.so could not be opened"):
        open_library(path)


@pytest.mark.parametrize("length", [70, 5_000, 1_000_000, 4_000_000])
def test_library_that_is_cut_short(cpu_library: Library, tmp_path: Path, length: int) -> None:
    """The loader would map it, and the process would die of SIGBUS at the first missing page."""
    path = tmp_path / "libllama-cpu-short.so"
    path.write_bytes(cpu_library.path.read_bytes()[:length])
    with pytest.raises(
        BackendUnavailableError, match=r"libllama-cpu-short.so is cut short.*Reinst"
    ):
        open_library(path)


def test_library_that_is_not_ours(tmp_path: Path) -> None:
    source = tmp_path / "other.c"
    source.write_text("int llama_version(void) { return 1; }\n")
    path = tmp_path / "libllama.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, source], check=True)
    with pytest.raises(LibraryMismatchError, match="not a llamacffi library"):
        open_library(path)


def test_library_needs_only_the_c_runtime(cpu_library: Library) -> None:
    """Self-contained: no sibling library, no RPATH, and only the C API exported."""
    if shutil.which("readelf") is None:
        pytest.fail("readelf is missing: install binutils")
    dynamic = subprocess.run(
        ["readelf", "-d", cpu_library.path], check=True, capture_output=True, text=True
    ).stdout
    needed = {
        line.split("[")[1].rstrip("]\n ") for line in dynamic.splitlines() if "NEEDED" in line
    }
    allowed = ("libc.so", "libm.so", "libstdc++.so", "libgcc_s.so", "libgomp.so", "libdl.so")
    allowed += ("libpthread.so", "ld-linux")
    assert {name for name in needed if not name.startswith(allowed)} == set()
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic
    symbols = subprocess.run(
        ["readelf", "--dyn-syms", "-W", cpu_library.path],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    rows = [line.split() for line in symbols.splitlines()]
    exported = [row for row in rows if len(row) == 8 and row[6] not in ("UND", "Ndx")]
    names = {row[7].split("@")[0] for row in exported}
    prefixes = ("llama_", "llamacffi_", "ggml_", "gguf_")
    assert {name for name in names if not name.startswith(prefixes)} == set()
    assert {row[4] for row in exported} == {"GLOBAL"}  # none WEAK, none UNIQUE


def test_description_beside_the_library(cpu_library: Library) -> None:
    info = read_info(cpu_library.path)
    assert info.backend == "cpu"
    assert info.commit == declared_commit()
    assert info.variant


ISOLATION = """
import sys, threading
from pathlib import Path
from llamacffi.backends import choose
from llamacffi.native.library import open_library
import llamacffi

first = choose("cpu")
second = open_library(Path(sys.argv[1]))
assert first.lib is not second.lib

# Global state: the log level and the log queue of one must not be the other's.
for library in (first, second):
    library.log.drain()
assert first.lib.llamacffi_log_pending() != second.lib.llamacffi_log_pending()
first.lib.llamacffi_log_set_level(5)
second.lib.llamacffi_log_set_level(1)
models = []
import os
for path in (None, sys.argv[1]):
    os.environ.pop("LLAMACFFI_LIBRARY", None)
    if path:
        os.environ["LLAMACFFI_LIBRARY"] = path
    models.append(llamacffi.Model(sys.argv[2]))
assert models[0].library is first and models[1].library is second

# The address of each exported function, and of the C++ statics behind it, differs.
import cffi
for name in ("llama_log_set", "ggml_time_us", "llama_backend_init", "ggml_backend_dev_count"):
    a = first.ffi.cast("uintptr_t", first.ffi.addressof(first.lib, name))
    b = second.ffi.cast("uintptr_t", second.ffi.addressof(second.lib, name))
    assert int(a) != int(b), name
assert first.lib.ggml_backend_dev_get(0) != second.lib.ggml_backend_dev_get(0)

def generate(model, out):
    from llamacffi.generation import Generation, run
    from llamacffi.sampling import SamplingParams
    with model.context(n_ctx=256, n_threads=1) as context:
        chain = SamplingParams(temperature=0).chain(model)
        prompt = model.vocab.tokenize("The capital of France is")
        steps = run(context, Generation(model.vocab, chain, prompt, max_tokens=16))
        out.append("".join(step.text for step in steps))

alone = []
for model in models:
    generate(model, alone)
together = [[], []]
threads = [threading.Thread(target=generate, args=(m, o)) for m, o in zip(models, together)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert alone[0] == alone[1] == together[0][0] == together[1][0], (alone, together)
for model in models:
    model.close()
print("isolated", alone[0])
"""


def test_two_libraries_in_one_process_share_nothing(
    cpu_library: Library, tmp_path: Path, model_path: Path
) -> None:
    twin = tmp_path / cpu_library.path.name
    shutil.copy(cpu_library.path, twin)
    shutil.copy(cpu_library.path.with_suffix(".json"), twin.with_suffix(".json"))
    child = subprocess.run(
        [sys.executable, "-c", ISOLATION, twin, model_path],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.startswith("isolated")
