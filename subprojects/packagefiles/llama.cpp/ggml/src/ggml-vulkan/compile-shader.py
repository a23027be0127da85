"""Run vulkan-shaders-gen for one shader, or take what it made of the same input before.

Usage: compile-shader.py --definitions TEXT --
       GENERATOR --glslc PROGRAM --source FILE ... --target-cpp FILE

With LLAMACFFI_SHADER_CACHE, the name of a folder, what is made is kept there, under a digest of all
shaders, of the generator's source, of what it was compiled with, and of the compiler's version.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path


def digest(definitions: str, glslc: str, source: Path) -> str:
    """What the result depends on."""
    seen = hashlib.sha256(definitions.encode() + source.name.encode())
    seen.update(subprocess.run([glslc, "--version"], check=True, capture_output=True).stdout)
    for path in sorted(source.parent.iterdir()):
        if path.is_file():
            seen.update(path.name.encode() + path.read_bytes())
    return seen.hexdigest()


def main(definitions: str, command: list[str]) -> int:
    """Make the file that the command would make; return its exit status."""
    options = dict(zip(command[1::2], command[2::2], strict=True))
    source, made = Path(options["--source"]), Path(options["--target-cpp"])
    folder = os.environ.get("LLAMACFFI_SHADER_CACHE")
    if not folder:
        return subprocess.run(command).returncode
    kept = Path(folder) / (digest(definitions, options["--glslc"], source) + ".cpp")
    if kept.is_file():
        shutil.copyfile(kept, made)
        # The headers that a shader includes are beside it.
        headers = sorted(source.parent.glob("*.glsl"))
        names = " ".join(str(path).replace(" ", "\\ ") for path in [source, *headers])
        Path(f"{made}.d").write_text(f"{made}: {names}\n", encoding="utf-8")
        return 0
    status = subprocess.run(command).returncode
    if status == 0:
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        shutil.copyfile(made, unfinished)
        unfinished.replace(kept)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[2], sys.argv[4:]))
