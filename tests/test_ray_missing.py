"""Without Ray, llamacffi.ray says how to get it."""

from __future__ import annotations

import sys

import pytest


def test_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("llamacffi.ray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'llamacffi\[ray\]'"):
        import llamacffi.ray  # noqa: F401 - the import is what is tested
