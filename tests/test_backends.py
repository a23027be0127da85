"""Choosing a backend: strict, automatic, by environment; honest reports."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import llamacffi
from llamacffi import plugins
from llamacffi.backends import Backend, choose, processor
from llamacffi.backends import builtin as builtin_backends
from llamacffi.errors import BackendUnavailableError, PluginError
from llamacffi.native.library import read_info

pytestmark = pytest.mark.usefixtures("own_choice")


def test_reports_say_what_is_usable_and_mend_what_is_not() -> None:
    reports = {report.name: report for report in llamacffi.backends()}
    cpu = reports["cpu"]
    assert cpu.installed
    assert cpu.usable
    assert cpu.reason is None
    assert cpu.library is not None
    assert [device.type for device in cpu.library.devices] == ["cpu"]
    assert cpu.library.devices[0].memory_total > 2**28
    for name in ("vulkan", "cuda"):
        assert not reports[name].usable
        assert f"pip install llamacffi-{name}" in (reports[name].remedy or "")
        assert f"llamacffi-{name}" in str(reports[name])


def test_probe_gives_the_same_answer_from_a_child_process() -> None:
    here = [(r.name, r.usable) for r in llamacffi.backends()]
    assert [(r.name, r.usable) for r in llamacffi.backends(probe=True)] == here


@pytest.mark.skipif(sys.platform == "darwin", reason="Metal is at home on macOS")
def test_metal_on_linux_is_refused_and_says_what_is_there() -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        choose("metal")
    message = str(caught.value)
    assert "'metal'" in message
    assert "macOS" in message
    assert "cpu (usable)" in message


def test_unknown_backend_lists_what_is_there() -> None:
    with pytest.raises(BackendUnavailableError, match=r"'quantum'.*not known.*cpu \(usable\)"):
        choose("quantum")


def test_auto_says_in_the_log_what_it_chose(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "llamacffi.backends"):
        library = choose("auto")
    assert library is choose("cpu")
    assert "Chose backend 'cpu'" in caplog.text


def test_auto_prefers_the_higher_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    path = choose("cpu").path
    real = builtin_backends.register_backends

    def register(register: object) -> None:
        real(register)  # type: ignore[arg-type]
        register(Backend("better", lambda: [path], priority=50))  # type: ignore[operator]
        register(Backend("deviceless", lambda: [path], priority=90, device_types=("gpu",)))  # type: ignore[operator]

    monkeypatch.setattr("llamacffi.plugins.collect", _collect_from(register))
    reports = [(r.name, r.usable) for r in llamacffi.backends()]
    assert reports.index(("deviceless", False)) < reports.index(("better", True))
    assert reports.index(("better", True)) < reports.index(("cpu", True))
    assert choose("auto").path == path
    with pytest.raises(BackendUnavailableError, match="no device of type gpu"):
        choose("deviceless")


def _collect_from(register: object) -> object:
    def collect(hook: str, builtin: object, kind: type) -> list[object]:
        found: list[object] = []
        register(found.append)  # type: ignore[operator]
        return found

    return collect


def test_environment_overrides_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMACFFI_BACKEND", "cpu")
    assert choose("metal") is choose("cpu")
    monkeypatch.setenv("LLAMACFFI_BACKEND", "nonsense")
    with pytest.raises(BackendUnavailableError, match="nonsense"):
        choose("cpu")


def test_environment_overrides_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = choose("cpu").path
    copy = tmp_path / "somewhere-else.so"
    shutil.copy(path, copy)
    monkeypatch.setenv("LLAMACFFI_LIBRARY", str(copy))
    assert choose("metal").path == copy
    monkeypatch.setenv("LLAMACFFI_LIBRARY", str(tmp_path / "missing.so"))
    with pytest.raises(BackendUnavailableError, match=r"LLAMACFFI_LIBRARY.*missing\.so"):
        choose("cpu")


def test_variant_by_name_and_unknown_variant() -> None:
    variant = read_info(choose("cpu").path).variant
    assert choose(f"cpu:{variant}") is choose("cpu")
    with pytest.raises(BackendUnavailableError, match="no variant 'pentium'"):
        choose("cpu:pentium")


def test_variant_that_the_processor_lacks_is_refused_before_it_is_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = choose("cpu").path
    copy = tmp_path / "libllama-cpu-future.so"
    copy.write_bytes(b"opening this would fail in another way")
    description = json.loads(path.with_suffix(".json").read_text())
    description["features"] = ["avx2048"]
    description["variant"] = "future"
    copy.with_suffix(".json").write_text(json.dumps(description))
    monkeypatch.setenv("LLAMACFFI_LIBRARY", str(copy))
    with pytest.raises(BackendUnavailableError, match="avx2048"):
        choose()
    monkeypatch.delenv("LLAMACFFI_LIBRARY")
    future = Backend("cpu", lambda: [copy, path])
    monkeypatch.setattr("llamacffi.plugins.collect", _collect_from(lambda r: r(future)))
    with pytest.raises(BackendUnavailableError, match="the processor lacks avx2048"):
        choose("cpu:future")
    assert choose("cpu").path == path  # the best that the processor has


def test_best_variant_is_the_one_with_most_features(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three descriptions of the same library; the processor is told to have two of them."""
    path = choose("cpu").path
    copies = []
    for variant, features in (("a", ["x"]), ("b", ["x", "y"]), ("c", ["x", "y", "z"])):
        copy = tmp_path / f"libllama-cpu-{variant}.so"
        shutil.copy(path, copy)
        description = json.loads(path.with_suffix(".json").read_text())
        description |= {"variant": variant, "features": features}
        copy.with_suffix(".json").write_text(json.dumps(description))
        copies.append(copy)
    offered = Backend("cpu", lambda: copies)
    monkeypatch.setattr("llamacffi.plugins.collect", _collect_from(lambda r: r(offered)))
    monkeypatch.setattr(processor, "processor_features", lambda: frozenset({"x", "y"}))
    assert choose("cpu").path == copies[1]


def test_plugin_that_fails_to_find_its_libraries(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def find() -> list[Path]:
        raise OSError("the disk is on fire")

    class Plugin:
        @staticmethod
        @llamacffi.hookimpl
        def register_backends(register: Callable[[Backend], None]) -> None:
            register(Backend("lost", find, priority=500))

    choose("cpu")  # plugins are looked for
    found = plugins._plugins()
    found.manager.register(Plugin, "lost")
    found.reports["lost"] = plugins.PluginReport("lost", "llamacffi-lost 1.0", "lost")
    try:
        reports = {report.name: report for report in llamacffi.backends()}
        assert not reports["lost"].usable
        assert "llamacffi-lost 1.0 has no library of it" in str(reports["lost"])
        assert reports["cpu"].usable
        assert "failed in find of the backend 'lost': the disk is on fire" in caplog.text
        assert choose("auto") is choose("cpu")
        with pytest.raises(PluginError, match=r"'lost' .llamacffi-lost 1\.0.*OSError.*on fire"):
            choose("lost")
    finally:
        found.manager.unregister(Plugin)
        del found.reports["lost"]


CRASHING = """
#include <signal.h>
#include <stdlib.h>
__attribute__((constructor)) static void crash(void) { raise(SIGILL); }
"""


def test_probe_survives_a_library_that_crashes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "crash.c"
    source.write_text(CRASHING)
    library = tmp_path / "libllama-crash.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    crashing = Backend("crash", lambda: [library], remedy="remove it.")
    monkeypatch.setattr("llamacffi.plugins.collect", _collect_from(lambda r: r(crashing)))
    report = next(r for r in llamacffi.backends(probe=True) if r.name == "crash")
    assert not report.usable
    assert "SIGILL" in (report.reason or "")


def test_processor_features_are_known() -> None:
    features = processor.processor_features()
    assert features
    assert processor.missing_features(features) == []
    assert processor.missing_features(frozenset({"unheard-of"})) == ["unheard-of"]
