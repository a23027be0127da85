"""Print what the overlay needs to know of this llama.cpp tree: source lists and versions.

Upstream's CMake globs the model sources and sets its versions in CMakeLists.txt. Reading both
here keeps an upgrade of llama.cpp from editing the overlay.

Usage: describe.py sources FOLDER [SUFFIX] | describe.py cuda-sources FOLDER PAIR... |
       describe.py version CMAKE_FILE PREFIX
"""

import re
import sys
from pathlib import Path


def sources(folder: str, suffix: str = ".cpp") -> list[str]:
    """The sources directly in a folder, sorted, as relative as the folder."""
    return sorted(path.as_posix() for path in Path(folder).glob(f"*{suffix}"))


def cuda_sources(folder: str, *attention_pairs: str) -> list[str]:
    """The sources of ggml-cuda, relative to its folder: attention for the given pairs of types."""
    here = Path(folder)
    vectors = {f"fattn-vec-instance-{pair}.cu" for pair in attention_pairs}
    instances = [
        path
        for path in (here / "template-instances").glob("*.cu")
        if path.name in vectors or not path.name.startswith("fattn-vec-")
    ]
    return sorted(path.relative_to(here).as_posix() for path in [*here.glob("*.cu"), *instances])


def version(cmake_file: str, prefix: str) -> list[str]:
    """MAJOR.MINOR.PATCH from `set(PREFIX_VERSION_MAJOR 0)` and its fellows."""
    text = Path(cmake_file).read_text(encoding="utf-8")
    parts = ("MAJOR", "MINOR", "PATCH")
    found = [re.search(rf"set\({prefix}_VERSION_{part}\s+(\d+)\)", text) for part in parts]
    return [".".join(match.group(1) if match else "0" for match in found)]


if __name__ == "__main__":
    command = {"sources": sources, "cuda-sources": cuda_sources, "version": version}[sys.argv[1]]
    print("\n".join(command(*sys.argv[2:])))
