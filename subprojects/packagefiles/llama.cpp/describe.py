"""Print what the overlay needs to know of this llama.cpp tree: source lists and versions.

Upstream's CMake globs the model sources and sets its versions in CMakeLists.txt. Reading both
here keeps an upgrade of llama.cpp from editing the overlay.

Usage: describe.py sources FOLDER [SUFFIX] | describe.py cuda-instances FOLDER PAIR... |
       describe.py unite FILE... | describe.py metal-kernels DEVICE_SOURCE |
       describe.py version CMAKE_FILE PREFIX
"""

import re
import sys
from pathlib import Path


def sources(folder: str, suffix: str = ".cpp") -> list[str]:
    """The sources directly in a folder, sorted, as relative as the folder."""
    return sorted(path.as_posix() for path in Path(folder).glob(f"*{suffix}"))


def cuda_instances(folder: str, *attention_pairs: str) -> list[str]:
    """Kernels of ggml-cuda for one case each; attention for the given pairs of types."""
    vectors = {f"fattn-vec-instance-{pair}.cu" for pair in attention_pairs}
    return [
        path.as_posix()
        for path in sorted(Path(folder).glob("template-instances/*.cu"))
        if path.name in vectors or not path.name.startswith("fattn-vec-")
    ]


def unite(*files: str) -> list[str]:
    """One source made of several that begin with the same headers, which have no guards."""
    lines = [line for file in files for line in Path(file).read_text().splitlines()]
    headers = {line.replace('"../', '"') for line in lines if line.startswith("#include")}
    return [*sorted(headers), *(line for line in lines if line and line[:1] not in "#/")]


def version(cmake_file: str, prefix: str) -> list[str]:
    """MAJOR.MINOR.PATCH from `set(PREFIX_VERSION_MAJOR 0)` and its fellows."""
    text = Path(cmake_file).read_text(encoding="utf-8")
    parts = ("MAJOR", "MINOR", "PATCH")
    found = [re.search(rf"set\({prefix}_VERSION_{part}\s+(\d+)\)", text) for part in parts]
    return [".".join(match.group(1) if match else "0" for match in found)]


def metal_kernels(device_source: str) -> list[str]:
    """The kernel files that the Metal device wants embedded, from its list X(SUFFIX, name)."""
    text = Path(device_source).read_text(encoding="utf-8")
    table = re.search(r"#define GGML_METAL_LIBS((?:.*\\\n)*.*)", text)
    names = re.findall(r"X\(\w+,\s*(\w+)\)", table.group(1)) if table else []
    return names or sys.exit(f"{device_source} has no list GGML_METAL_LIBS of kernels: find it")


if __name__ == "__main__":
    commands = {
        "sources": sources,
        "cuda-instances": cuda_instances,
        "unite": unite,
        "metal-kernels": metal_kernels,
        "version": version,
    }
    print("\n".join(commands[sys.argv[1]](*sys.argv[2:])))
