"""Files that are fetched once per user, whichever of several test processes comes first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import platformdirs

from llamacffi.hub.cache import locked

ROOT = Path(__file__).parent.parent


def fetched(script: str, name: str) -> Path:
    """A folder of the cache, as ci/SCRIPT fills it; the script leaves alone what is there."""
    folder = platformdirs.user_cache_path("llamacffi", ensure_exists=True) / name
    with locked(folder):
        environment = os.environ | {"PYTHON": sys.executable}
        subprocess.run([ROOT / "ci" / script, folder], check=True, env=environment)
    return folder
