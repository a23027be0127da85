"""The plugin manager: entry points, loaded when first needed and once.

A plugin that cannot be imported, or whose hook raises, is reported with its name and skipped;
the others work on. It raises only where it is the one that was asked for.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from llamacffi import hookspecs
from llamacffi.errors import PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "PluginReport",
    "blame",
    "collect",
    "distribution_of",
    "failure_of",
    "installed",
    "owner_of",
]

logger = logging.getLogger("llamacffi.plugins")
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class PluginReport:
    """One plugin, as found.

    Attributes:
        name: Its entry-point name.
        distribution: The installed distribution and its version, e.g. "llamacffi-vulkan 0.1.0".
        module: The module the entry point names.
        hooks: The hooks it implements.
        error: Why it cannot be used; None if it can.
    """

    name: str
    distribution: str
    module: str
    hooks: tuple[str, ...] = ()
    error: str | None = None


def _any_installed() -> bool:
    """Whether some distribution names the entry-point group: a glance that takes a millisecond."""
    wanted = f"[{hookspecs.PROJECT}]"
    for folder in map(Path, sys.path):
        for pattern in ("*.dist-info/entry_points.txt", "*.egg-info/entry_points.txt"):
            if any(wanted in _text(file) for file in folder.glob(pattern)):
                return True
        if folder.suffix in (".zip", ".egg", ".whl") and folder.is_file():
            return True  # not a folder: let importlib.metadata look inside
    return False


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class _Plugins:
    """What was found in this process."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.reports: dict[str, PluginReport] = {}
        self.owners: list[tuple[Any, str]] = []
        if _any_installed():
            from importlib.metadata import entry_points  # takes 20 ms

            for entry in entry_points(group=hookspecs.PROJECT):
                self._load(entry)

    def _load(self, entry: EntryPoint) -> None:
        owner = entry.dist
        distribution = f"{owner.name} {owner.version}" if owner is not None else "unknown"
        error = None
        hooks: tuple[str, ...] = ()
        try:
            module = entry.load()
            if self.manager.has_plugin(entry.name):
                raise PluginError(f"another plugin is called {entry.name!r} already")
            self.manager.register(module, entry.name)
            self.manager.check_pending()
            callers = self.manager.get_hookcallers(module) or []
            hooks = tuple(caller.name for caller in callers)
        except Exception as caught:  # whatever a stranger's module raises must not stop the rest
            error = f"{type(caught).__name__}: {caught}"
            logger.warning("The plugin %r (%s) was skipped: %s", entry.name, distribution, error)
        self.reports[entry.name] = PluginReport(entry.name, distribution, entry.value, hooks, error)

    def report_failure(self, name: str, error: str) -> None:
        known = self.reports.get(name, PluginReport(name, "unknown", "unknown"))
        self.reports[name] = PluginReport(
            known.name, known.distribution, known.module, known.hooks, error
        )


_found: _Plugins | None = None
_lock = threading.RLock()


def _plugins() -> _Plugins:
    global _found
    with _lock:
        if _found is None:
            _found = _Plugins()
        return _found


def installed() -> list[PluginReport]:
    """Every third-party plugin that is installed, usable or not."""
    return list(_plugins().reports.values())


def failure_of(name: str) -> str:
    """What to add to "unknown name" messages: the plugins that failed to load, if any.

    Raises:
        PluginError: The plugin called `name` itself is installed and broken.
    """
    broken = [report for report in installed() if report.error]
    for report in broken:
        if name in (report.name, report.distribution.split()[0]):
            raise PluginError(
                f"The plugin {report.name!r} ({report.distribution}) was asked for and cannot be "
                f"used: {report.error}. Repair or reinstall it."
            )
    if not broken:
        return ""
    return " Plugins that failed: " + "; ".join(f"{r.name} ({r.error})" for r in broken) + "."


def owner_of(item: object) -> str | None:
    """The plugin that registered this; None for what is built in."""
    owners = _found.owners if _found is not None else []
    return next((name for owned, name in owners if owned is item), None)


def distribution_of(item: object) -> str | None:
    """The distribution of the plugin that registered this, e.g. "llamacffi-vulkan 0.1.0"."""
    name = owner_of(item)
    if name is None or _found is None:
        return None
    return _found.reports[name].distribution


def blame(item: object, doing: str, error: Exception) -> None:
    """Report that something which a plugin registered raised, later than in its hook.

    Raises:
        Exception: The error itself, if no plugin registered the item.
    """
    name = owner_of(item)
    if name is None or _found is None:
        raise error
    _found.report_failure(name, f"{doing}: {type(error).__name__}: {error}")
    logger.warning("The plugin %r failed in %s: %s", name, doing, error)


def collect(hook: str, builtin: ModuleType, kind: type[_Item]) -> list[_Item]:
    """Call one registration hook on the built-in module and on every plugin, one by one.

    Args:
        hook: The hook's name, e.g. "register_backends".
        builtin: The module with llamacffi's own implementation.
        kind: What may be registered; anything else is the plugin's error.

    Returns:
        What was registered: the built-in things first, then the plugins' in the order found.
    """
    found = _plugins()
    with _lock:
        manager = found.manager
        if not manager.is_registered(builtin):
            manager.register(builtin, builtin.__name__)
        items: list[_Item] = []
        everyone = manager.get_plugins()
        ordered = [builtin, *(plugin for plugin in everyone if plugin is not builtin)]
        for plugin in ordered:
            others = [other for other in everyone if other is not plugin]
            caller = manager.subset_hook_caller(hook, remove_plugins=others)
            own: list[_Item] = []
            name = manager.get_name(plugin) or repr(plugin)
            try:
                caller(register=_registrar(own, kind))
            except Exception as error:
                if plugin is builtin:
                    raise
                found.report_failure(name, f"{hook}: {type(error).__name__}: {error}")
                logger.warning("The plugin %r failed in %s: %s", name, hook, error)
                continue
            if own:
                logger.debug("%s: %s registered %s", hook, name, own)
            if plugin is not builtin:
                found.owners.extend((item, name) for item in own)
            items.extend(own)
        return items


def _registrar(items: list[_Item], kind: type[_Item]) -> Callable[[Any], None]:
    def register(item: Any) -> None:
        if not isinstance(item, kind):
            raise PluginError(f"expected a {kind.__name__}, got {type(item).__name__}")
        items.append(item)

    return register
