"""How llama.cpp's source comes: from upstream through Meson's wrap, or from the mirror."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
BACKEND = """
def get_requires_for_build_wheel(config_settings=None):
    return []
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    import pathlib
    info = pathlib.Path(folder) / "standin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: standin\\nVersion: 1.0\\n")
    return info.name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "standin_backend"
backend-path = ["."]
[project]
name = "standin"
version = "1.0"
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """build_backend/source.py, with a mirror.json of the test's own."""
    path = tmp_path / "build_backend" / "source.py"
    path.parent.mkdir()
    path.write_text((ROOT / "build_backend" / "source.py").read_text())
    spec = importlib.util.spec_from_file_location("source_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("MESON_PACKAGE_CACHE_DIR", raising=False)
    return module


def _project(tmp_path: Path, url: str, revision: str) -> Path:
    root = tmp_path
    overlay = root / "subprojects" / "packagefiles" / "llama.cpp"
    overlay.mkdir(parents=True)
    (overlay / "meson.build").write_text("project('llama.cpp')\n")
    (root / "meson.build").write_text("project('main')\n")
    (root / "subprojects" / "llama.cpp.wrap").write_text(
        f"[wrap-git]\nurl = {url}\nrevision = {revision}\ndirectory = llama.cpp-test\ndepth = 1\n"
        "patch_directory = llama.cpp\n"
    )
    return root


def _sdist(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "standin-1.0.tar.gz"
    files = {
        "pyproject.toml": PYPROJECT,
        "standin_backend.py": BACKEND,
        "PKG-INFO": "Metadata-Version: 2.1\nName: standin\nVersion: 1.0\n",
        "vendor/llama.cpp/include/llama.h": "// the mirror's header\n",
        "vendor/llama.cpp/.git": "gitdir: ../../.git/modules/vendor/llama.cpp\n",
        "elsewhere/other.txt": "not part of it\n",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"standin-1.0/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def _mirror(tmp_path: Path, sdist: Path, revision: str, sha256: str | None = None) -> None:
    digest = sha256 or hashlib.sha256(sdist.read_bytes()).hexdigest()
    (tmp_path / "build_backend" / "mirror.json").write_text(
        json.dumps(
            {
                "revision": revision,
                "package": "standin==1.0",
                "sha256": digest,
                "folder": "vendor/llama.cpp",
            }
        )
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one source distribution; pip reaches no other."""
    sdist = _sdist(tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", str(sdist.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return sdist


def test_upstream_through_the_wrap(source: ModuleType, tmp_path: Path) -> None:
    upstream = tmp_path / "upstream"
    (upstream / "include").mkdir(parents=True)
    (upstream / "include" / "llama.h").write_text("// upstream's header\n")
    git = ["git", "-C", str(upstream), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    revision = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    root = _project(tmp_path, upstream.as_uri(), revision)
    assert source.requirements(root) == []  # nothing of the mirror's is needed
    tree = source.ensure_source(root)
    assert (tree / "include" / "llama.h").read_text() == "// upstream's header\n"
    assert (tree / "meson.build").is_file()  # the overlay was applied


def test_mirror_where_upstream_is_out_of_reach(
    source: ModuleType, tmp_path: Path, index: Path
) -> None:
    root = _project(tmp_path, (tmp_path / "nowhere").as_uri(), "a" * 40)
    _mirror(tmp_path, index, "a" * 40)
    assert source.requirements(root) == ["pip", "scikit-build-core"]
    tree = source.ensure_source(root)
    assert tree == root / "subprojects" / "packagecache" / "llama.cpp-test"
    assert (tree / "include" / "llama.h").read_text() == "// the mirror's header\n"
    assert not (tree / "elsewhere").exists()
    assert not (tree / ".git").exists()
    assert source.ensure_source(root) == tree  # present: nothing is fetched again
    assert source.requirements(root) == []


def test_mirror_with_another_hash_is_not_used(
    source: ModuleType, tmp_path: Path, index: Path
) -> None:
    root = _project(tmp_path, (tmp_path / "nowhere").as_uri(), "a" * 40)
    _mirror(tmp_path, index, "a" * 40, sha256="0" * 64)
    with pytest.raises(source.SourceError, match="SHA-256"):
        source.ensure_source(root)
    assert source.present(root) is None


def test_mirror_of_another_revision_is_not_used(
    source: ModuleType, tmp_path: Path, index: Path
) -> None:
    root = _project(tmp_path, (tmp_path / "nowhere").as_uri(), "a" * 40)
    _mirror(tmp_path, index, "b" * 40)
    with pytest.raises(source.SourceError, match="packagecache/llama.cpp-test"):
        source.ensure_source(root)


def test_no_network_at_all(
    source: ModuleType, tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _project(tmp_path, (tmp_path / "nowhere").as_uri(), "a" * 40)
    _mirror(tmp_path, index, "a" * 40)
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(source.SourceError, match="could not download standin"):
        source.ensure_source(root)


def test_a_tree_put_there_by_hand_is_enough(source: ModuleType, tmp_path: Path) -> None:
    root = _project(tmp_path, (tmp_path / "nowhere").as_uri(), "a" * 40)
    tree = root / "subprojects" / "packagecache" / "llama.cpp-test"
    (tree / "include").mkdir(parents=True)
    (tree / "include" / "llama.h").touch()
    assert source.ensure_source(root) == tree


def test_the_pin_and_the_mirror_agree() -> None:
    sys.path.insert(0, str(ROOT / "build_backend"))
    try:
        import source as real
    finally:
        sys.path.pop(0)
    wrap = real.read_wrap(ROOT)
    mirror = json.loads((ROOT / "build_backend" / "mirror.json").read_text())
    assert wrap["revision"] == mirror["revision"]
    assert wrap["directory"] == f"llama.cpp-{wrap['revision'][:12]}"
