"""Lock 1 of the native border: the committed declarations are what the pinned headers say."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cffi
import pytest

from codegen import differ, pin
from codegen.__main__ import main
from codegen.declarations import Declaration, parse
from codegen.emit import cdef_files, layout_rows, select
from codegen.preprocess import INCLUDES, CodegenError, preprocess
from codegen.render import CDEF, LAYOUT, REPORT
from codegen.selection import OUTPUTS

ROOT = Path(__file__).resolve().parent.parent
OTHER_REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def source() -> Path:
    try:
        return pin.find_source(ROOT)
    except CodegenError as error:
        pytest.fail(str(error))


@pytest.fixture(scope="module")
def declarations(source: Path) -> dict[tuple[str, str], Declaration]:
    return {(item.kind, item.name): item for item in parse(preprocess(source))}


@pytest.fixture
def doctored(source: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    """Copies the public headers and replaces text in llama.h."""
    tree = tmp_path / "doctored"
    for folder in INCLUDES:
        shutil.copytree(source / folder, tree / folder, ignore=_all_but_headers)

    def replace(old: str, new: str) -> Path:
        header = tree / "include" / "llama.h"
        text = header.read_text()
        assert text.count(old) == 1, old
        header.write_text(text.replace(old, new))
        return tree

    return replace


def _all_but_headers(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".h")]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the repository, as far as the generator reads and writes it."""
    root = tmp_path / "repository"
    for name in [pin.WRAP, LAYOUT, REPORT, Path("codegen/reasons.toml")]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    package = Path("src/llamacffi")
    shutil.copytree(ROOT / package, root / package, ignore=ignore, dirs_exist_ok=True)
    return root


def test_regeneration_finds_no_difference(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["check", "--source", str(source)], ROOT)
    captured = capsys.readouterr()
    assert status == 0, captured.out + captured.err


def test_check_shows_what_differs(
    source: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = repository / CDEF / "llama.h"
    header.write_text(header.read_text().replace("    int32_t n_tokens;\n", "    int n_tokens;\n"))
    assert main(["check", "--source", str(source)], repository) == 1
    diff = capsys.readouterr().out
    assert "-    int n_tokens;" in diff
    assert "+    int32_t n_tokens;" in diff
    assert main(["generate", "--source", str(source)], repository) == 0
    assert capsys.readouterr().out == f"wrote {CDEF / 'llama.h'}\n"
    assert main(["check", "--source", str(source)], repository) == 0


def test_cffi_accepts_the_files_in_order() -> None:
    ffi = cffi.FFI()
    for name in OUTPUTS:
        ffi.cdef((ROOT / CDEF / name).read_text())
    assert ffi.sizeof("llama_token") == 4
    assert ffi.typeof("struct ggml_tensor").fields is None  # only used behind a pointer: opaque


def test_shifted_enumerators(declarations: dict[tuple[str, str], Declaration]) -> None:
    values = dict(declarations["enum", "llama_token_attr"].members)
    assert values["LLAMA_TOKEN_ATTR_UNKNOWN"] == "1"
    assert values["LLAMA_TOKEN_ATTR_CONTROL"] == "8"
    assert values["LLAMA_TOKEN_ATTR_SINGLE_WORD"] == "512"


def test_values_from_other_declarations(
    declarations: dict[tuple[str, str], Declaration],
) -> None:
    rope = dict(declarations["enum", "llama_rope_type"].members)
    assert rope["LLAMA_ROPE_TYPE_VISION"] == "24"  # a macro of ggml.h
    scaling = dict(declarations["enum", "llama_rope_scaling_type"].members)
    assert (
        scaling["LLAMA_ROPE_SCALING_TYPE_MAX_VALUE"] == scaling["LLAMA_ROPE_SCALING_TYPE_LONGROPE"]
    )
    tensor = dict(declarations["struct", "ggml_tensor"].members)
    assert tensor["op_params"] == "int32_t op_params[16]"  # 64 / sizeof(int32_t)


def test_macros(declarations: dict[tuple[str, str], Declaration]) -> None:
    assert (
        declarations["macro", "LLAMA_DEFAULT_SEED"].text == "#define LLAMA_DEFAULT_SEED 0xFFFFFFFF"
    )
    assert declarations["macro", "LLAMA_TOKEN_NULL"].text == "#define LLAMA_TOKEN_NULL -1"
    session, magic = "LLAMA_SESSION_MAGIC", "0x6767736e"
    assert declarations["macro", session].text == f"#define {session} {magic}"
    assert ("macro", "GGUF_MAGIC") not in declarations  # a string


def test_deprecations_keep_upstreams_advice(
    declarations: dict[tuple[str, str], Declaration],
) -> None:
    assert declarations["function", "llama_free_model"].deprecated == "use llama_model_free instead"
    assert declarations["function", "llama_model_free"].deprecated == ""


def test_every_function_of_llama_h_is_declared(
    source: Path, declarations: dict[tuple[str, str], Declaration]
) -> None:
    """Counted without a parser, so that one which loses functions is found out."""
    text = (source / "include" / "llama.h").read_text()
    lines = [line.strip() for line in text.splitlines()]
    count = sum("LLAMA_API " in line and not line.startswith(("#", "//")) for line in lines)
    found = [key for key, item in declarations.items() if item.header == "llama.h"]
    assert sum(kind == "function" for kind, _ in found) == count


def test_layout_rows() -> None:
    rows = (ROOT / LAYOUT).read_text().splitlines()
    assert "STRUCT(llama_batch)" in rows
    assert "FIELD(llama_batch, n_tokens)" in rows
    assert "FIELD(llama_model_kv_override, val_f64)" in rows  # of an anonymous union
    assert "CONSTANT(LLAMA_VOCAB_TYPE_NONE)" in rows
    assert "CONSTANT(LLAMA_DEFAULT_SEED)" in rows
    assert not any("mtmd" in row.lower() for row in rows)
    assert len(rows) == len(set(rows))


def test_differ_names_what_an_upstream_commit_changed(
    doctored: Callable[[str, str], Path], source: Path
) -> None:
    doctored(
        "        int32_t n_tokens;\n\n        llama_token",
        "        int64_t n_tokens;\n\n        llama_token",
    )
    doctored("    LLAMA_API int64_t llama_time_us(void);\n", "")
    tree = doctored("LLAMA_VOCAB_TYPE_TEST   = 7", "LLAMA_VOCAB_TYPE_TEST   = 1 << 4")
    old, new = (
        differ.interface(cdef_files(select(parse(preprocess(path))), "")) for path in (source, tree)
    )
    words = {"batch.py": frozenset({"n_tokens"}), "vocab.py": frozenset({"llama_vocab_bos"})}
    changes = {change.name: change for change in differ.compare(old, new, words)}
    assert set(changes) == {"llama_batch.n_tokens", "llama_time_us", "LLAMA_VOCAB_TYPE_TEST"}
    field = changes["llama_batch.n_tokens"]
    assert (field.action, field.used_in) == ("changed", ("batch.py",))
    assert (field.old, field.new) == ("int32_t n_tokens", "int64_t n_tokens")
    assert changes["llama_time_us"].action == "removed"
    assert changes["llama_time_us"].old == "int64_t llama_time_us(void);"
    assert changes["LLAMA_VOCAB_TYPE_TEST"].new == "LLAMA_VOCAB_TYPE_TEST = 16"
    report = differ.write_changes(changes.values(), "a", "b")
    urgent, _, rest = report.partition("## Removed")
    assert "`llama_batch.n_tokens` changed, used in batch.py" in urgent
    assert "`llama_time_us` removed" in rest


def test_upgrade_pins_generates_and_reports(
    doctored: Callable[[str, str], Path],
    repository: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = doctored("llama_free(struct llama_context * ctx)", "llama_free(bool sure)")
    report = tmp_path / "changes.md"
    committed_revision = pin.read_pin(repository).revision
    arguments = ["upgrade", OTHER_REVISION, "--source", str(tree), "--report", str(report)]
    assert main(arguments, repository) == 0
    assert pin.read_pin(repository) == pin.Pin(OTHER_REVISION, "llama.cpp-0123456789ab")
    assert OTHER_REVISION in (repository / CDEF / "llama.h").read_text()
    assert "new: `void llama_free(bool sure);`" in report.read_text()
    assert f"llama.cpp {committed_revision} to {OTHER_REVISION}" in report.read_text()
    assert report.read_text() == capsys.readouterr().out


def test_diff_against_a_git_revision(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(variable)
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "src"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    header = repository / CDEF / "llama.h"
    text = header.read_text()
    header.write_text(text.replace("llama_time_us(void);", "llama_time_us(int unit);"))
    assert main(["diff", "HEAD"], repository) == 0
    assert "- function `llama_time_us` changed" in capsys.readouterr().out
    assert main(["diff", "no-such-revision"], repository) == 1
    assert "no-such-revision is no folder, and git says" in capsys.readouterr().err


def test_diff_of_equal_declarations_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(ROOT / CDEF), str(ROOT / CDEF)], ROOT) == 0
    assert "0 differences" in capsys.readouterr().out


def test_a_function_without_a_reason_fails_the_check(
    doctored: Callable[[str, str], Path],
    repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = "    LLAMA_API int64_t llama_time_us(void);\n"
    tree = doctored(old, f"{old}    LLAMA_API void llamax_brand_new(void);\n")
    assert main(["generate", "--source", str(tree)], repository) == 0
    capsys.readouterr()
    assert main(["check", "--source", str(tree)], repository) == 1
    captured = capsys.readouterr()
    assert captured.out == ""  # up to date, and yet not good
    assert "llamax_brand_new is neither wrapped nor explained" in captured.err


def test_a_mention_in_prose_is_no_wrapping(repository: Path, source: Path) -> None:
    name = "llama_opt_epoch"  # training: never wrapped
    (repository / "src/llamacffi/prose.py").write_text(f'"""Not {name}."""\n# {name}\n')
    main(["generate", "--source", str(source)], repository)
    assert f"| `{name}` | not wrapped |" in (repository / REPORT).read_text()
    (repository / "src/llamacffi/code.py").write_text(f"lib.{name}(1)\n")
    main(["generate", "--source", str(source)], repository)
    assert f"| `{name}` | wrapped | `code.py` |" in (repository / REPORT).read_text()


def test_a_missing_tree_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "subprojects").mkdir()
    shutil.copy(ROOT / pin.WRAP, tmp_path / pin.WRAP)
    assert main(["check"], tmp_path) == 1
    assert "meson subprojects download" in capsys.readouterr().err
    assert main(["upgrade", "main"], tmp_path) == 1


def test_a_struct_that_exists_only_as_a_typedef() -> None:
    items = parse('# 1 "llama.h"\ntypedef struct { int a[1 << 2]; } llama_pair;')
    rows = layout_rows(items, "").splitlines()
    assert rows[-2:] == ["TYPEDEF_STRUCT(llama_pair)", "TYPEDEF_FIELD(llama_pair, a)"]
    assert "int a[4];" in items[0].text
