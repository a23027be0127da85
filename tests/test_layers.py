"""Imports go down only, cffi stays behind the native border, and importing the package is cheap."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamacffi

PACKAGE = Path(llamacffi.__file__).parent

# From the bottom to the top; a module may import what stands before it, a package also itself.
ORDER = (
    "errors", "call", "prefix", "lifeline", "native", "hookspecs", "plugins", "backends", "rpc",
    "hub", "gguf_check", "model_files", "load_progress",
    "fingerprint", "vocab", "model_params", "context_params", "host_memory", "memory_plan",
    "measuring", "fitting", "model", "opening", "context_memory", "memory", "batch", "decoding",
    "state_format", "state", "context", "prompt_cache", "disk_cache", "adapter", "gguf",
    "sampling", "templates",
    "embedding", "normalization", "embedding_shapes", "reranking",
    "stopping", "logprobs", "logprob_shapes", "scoring", "generation", "drafting",
    "turn", "embedding_front", "aio", "job", "arguments", "completion", "completing",
    "answer", "chat_request", "chat_completion", "chat_completing", "llama", "chat",
    "async_llama", "async_chat", "engine", "ray", "server", "cli", "__main__",
)  # fmt: skip
# Conveniences that reach up when they are called: `Model.context`, `Context.set_adapters`.
UPWARD_WHEN_CALLED = {("model", "context"), ("context", "adapter")}
HEAVY = {"numpy", "cffi", "_cffi_backend", "click", "pluggy", "psutil", "tqdm", "archspec",
         "huggingface_hub", "platformdirs", "asyncio", "prompt_toolkit",
         "ray"}  # fmt: skip


def modules() -> list[Path]:
    found = [path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts]
    assert len(found) > 40
    return sorted(found)


def unit_of(path: Path) -> str:
    """The part of the package that a file belongs to; "" for the package's own __init__."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(
    node: ast.AST, path: Path, in_function: bool = False
) -> Iterator[tuple[str, bool, int]]:
    """(module, inside a function, line) of each import that can be executed."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, in_function, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, f"{path}: relative import in line {child.lineno}"
            assert child.module is not None
            # `from llamacffi import hub` imports a module, too
            names = [f"{child.module}.{alias.name}" for alias in child.names]
            wanted = names if child.module == "llamacffi" else [child.module]
            yield from ((name, in_function, child.lineno) for name in wanted)
        elif is_type_checking(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield from imports(other, path, in_function)
        else:
            inside = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from imports(child, path, inside)


def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def own_imports(path: Path) -> Iterator[tuple[str, bool, int]]:
    for name, in_function, line in imports(parsed(path), path):
        parts = name.split(".")
        if parts[0] == "llamacffi" and len(parts) > 1:
            yield parts[1], in_function, line


def test_every_module_has_its_place() -> None:
    units = {unit_of(path) for path in modules()} - {""}
    unknown = units - set(ORDER)
    assert not unknown, f"put {sorted(unknown)} where they belong into ORDER"


def test_imports_go_down_only() -> None:
    upward = []
    for path in modules():
        unit = unit_of(path)
        if not unit:
            continue
        for target, in_function, line in own_imports(path):
            if target == unit or target not in ORDER:  # a name such as llamacffi.__version__
                continue
            if ORDER.index(target) < ORDER.index(unit):
                continue
            if not (in_function and (unit, target) in UPWARD_WHEN_CALLED):
                upward.append(f"{path.relative_to(PACKAGE)}:{line} imports {target}")
    assert not upward


def test_the_exemptions_are_needed() -> None:
    used = {(unit_of(path), target) for path in modules() for target, _, _ in own_imports(path)}
    assert used >= UPWARD_WHEN_CALLED


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from llamacffi.cli import main", [("llamacffi.cli", False)]),
        ("def f():\n    import llamacffi.cli", [("llamacffi.cli", True)]),
        ("if TYPE_CHECKING:\n    import llamacffi.cli", []),
        ("try:\n    from llamacffi import cli\nexcept ImportError: pass",
         [("llamacffi.cli", False)]),
        ("class C:\n    from llamacffi import cli, chat",
         [("llamacffi.cli", False), ("llamacffi.chat", False)]),
    ],
)  # fmt: skip
def test_the_reader_sees_imports(text: str, found: list[tuple[str, bool]]) -> None:
    seen = [(name, inside) for name, inside, _ in imports(ast.parse(text), Path("x.py"))]
    assert seen == found


def test_cffi_stays_behind_the_border() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in modules()
        if unit_of(path) != "native"
        for name, _, line in imports(parsed(path), path)
        if name.split(".")[0] in ("cffi", "_cffi_backend", "ctypes")
        or name == "llamacffi.native._llama"
    ]
    assert not found


def test_nothing_is_unpickled() -> None:
    unpicklers = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in modules()
        for name, _, line in imports(parsed(path), path)
        if name.split(".")[0] in unpicklers
    ]
    assert not found


def test_hookspecs_import_pluggy_alone() -> None:
    path = PACKAGE / "hookspecs.py"
    roots = {name.split(".")[0] for name, _, _ in imports(parsed(path), path)}
    assert roots <= {"__future__", "collections", "typing", "pluggy"}


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = json.loads(child.stdout.splitlines()[-1])
    return set(names)


@pytest.mark.parametrize(
    "statement", ["import llamacffi", "import llamacffi; dir(llamacffi); llamacffi.errors"]
)
def test_importing_the_package_is_cheap(statement: str) -> None:
    loaded = loaded_after(statement)
    assert not loaded & HEAVY
    assert not any(name.startswith("llamacffi.native") for name in loaded)


def test_the_names_are_there() -> None:
    code = "import llamacffi\nfor name in llamacffi.__all__: getattr(llamacffi, name)"
    assert "llamacffi.llama" in loaded_after(code)
    assert set(dir(llamacffi)) == set(llamacffi.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llamacffi.nothing  # type: ignore[attr-defined]


def test_the_classes_alone_open_no_library() -> None:
    loaded = loaded_after("from llamacffi import Llama, Model, Context, SamplerChain")
    assert not loaded & {"numpy", "_cffi_backend", "llamacffi.native._llama", "psutil", "tqdm"}
