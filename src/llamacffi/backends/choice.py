"""Which library to use: strict by name, or the best that works; and the reports on all of them.

A name is `backend` or `backend:variant`, e.g. "cpu:x86-64-v3". Two environment variables override
whatever the program asks for: LLAMACFFI_LIBRARY (a path) and LLAMACFFI_BACKEND (a name).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from llamacffi import plugins
from llamacffi.backends import builtin, faults
from llamacffi.backends.backend import Backend, BackendReport, LibraryReport
from llamacffi.backends.devices import Inventory, inventory
from llamacffi.backends.fitness import is_integrated, objection
from llamacffi.backends.known import REMEDIES
from llamacffi.backends.probe import CannotProbeError, probe_library
from llamacffi.backends.processor import missing_features
from llamacffi.backends.software import Names, named
from llamacffi.errors import BackendUnavailableError, LibraryMismatchError, LlamaCffiError
from llamacffi.native.library import (
    Library,
    LibraryInfo,
    is_open,
    open_library,
    read_info,
)

__all__ = ["AUTO", "backends", "choose"]

logger = logging.getLogger("llamacffi.backends")
AUTO = "auto"
BACKEND_VARIABLE = "LLAMACFFI_BACKEND"
LIBRARY_VARIABLE = "LLAMACFFI_LIBRARY"


@dataclass
class _Offer:
    """All that plugins registered under one name."""

    name: str
    offers: list[Backend] = field(default_factory=list)

    @property
    def priority(self) -> int:
        return max(offer.priority for offer in self.offers)

    @property
    def device_types(self) -> frozenset[str]:
        return frozenset(kind for offer in self.offers for kind in offer.device_types)

    @property
    def remedy(self) -> str:
        return next((offer.remedy for offer in reversed(self.offers) if offer.remedy), "")

    @property
    def strangers(self) -> list[str]:
        """The distributions other than llamacffi that registered it, with their versions."""
        packages = dict.fromkeys(faults.package_of(offer) for offer in self.offers)
        return [package for package in packages if package != faults.OWN]

    def candidates(self, variant: str = "") -> list[tuple[LibraryInfo, str]]:
        """The library files and whose they are, the one that asks most of the processor first."""
        found = {
            path.resolve(): (read_info(path), faults.package_of(offer))
            for offer in self.offers
            for path in faults.libraries(offer)
        }
        wanted = [pair for pair in found.values() if not variant or pair[0].variant == variant]
        return sorted(wanted, key=lambda pair: _rank(pair[0]))


def _rank(info: LibraryInfo) -> tuple[int, str, str]:
    return -len(info.features), info.variant, str(info.path)


def _offers() -> dict[str, _Offer]:
    offers: dict[str, _Offer] = {}
    for backend in plugins.collect("register_backends", builtin, Backend):
        offers.setdefault(backend.name, _Offer(backend.name)).offers.append(backend)
    return offers


def choose(name: str = AUTO, devices: Collection[str] = ()) -> Library:
    """Open the library to use.

    Args:
        name: A backend's name, optionally with a variant ("cpu:x86-64-v3"): that one or an
            error. "auto": the one with the highest priority that works here, but one with an
            integrated GPU only where no other has a real one. A library that needs devices is
            tried in a child process first, once, in case its driver crashes.
        devices: The names of devices that will be asked for. A backend with nothing but a
            software renderer is usable if that is among them; never for "auto".

    Returns:
        The opened library, one per file and process.

    Raises:
        BackendUnavailableError: Nothing fits; the message lists every candidate, why it cannot
            be used, and what to do.
        LibraryMismatchError: It is installed, but built from other sources than this package.
        PluginError: The backend's plugin is installed but broken.
    """
    path = os.environ.get(LIBRARY_VARIABLE)
    if path:
        logger.info("Using %s, as %s says.", path, LIBRARY_VARIABLE)
        return _open_path(Path(path))
    override = os.environ.get(BACKEND_VARIABLE)
    if override and override != name:
        logger.info("Using backend %r instead of %r, as %s says.", override, name, BACKEND_VARIABLE)
        name = override
    if name == AUTO:
        return _choose_best()
    return _choose_named(name, devices)


def _open_path(path: Path) -> Library:
    if not path.is_file():
        raise BackendUnavailableError(
            f"{LIBRARY_VARIABLE} names {str(path)!r}, where no file is. Correct or unset it."
        )
    lacking = missing_features(read_info(path).features)
    if lacking:
        raise BackendUnavailableError(
            f"{LIBRARY_VARIABLE} names {str(path)!r}, which needs a processor with "
            f"{', '.join(lacking)}; this one has not. Unset it, or name another library."
        )
    return open_library(path)


def _choose_named(name: str, devices: Collection[str]) -> Library:
    base, _, variant = name.partition(":")
    offers = _offers()
    offer = offers.get(base)
    if offer is None:
        aside = plugins.failure_of(base)
        remedy = REMEDIES.get(base)
        known = f"is not installed. To install it: {remedy}" if remedy else "is not known."
        raise BackendUnavailableError(
            f"Backend {base!r} was asked for and {known} Found here: {_others(base)}.{aside}"
        )
    report = _report(offer, _opener(offer, _probe_once), variant, devices)
    if not report.libraries:
        plugins.failure_of(base)
    if report.library is None:
        tried = "; ".join(f"{lib.path.name}: {lib.reason}" for lib in report.libraries)
        refusal = LibraryMismatchError if _mismatched(report) else BackendUnavailableError
        raise refusal(
            f"Backend {name!r} was asked for and cannot be used: {report.reason}."
            + (f" Tried: {tried}." if len(report.libraries) > 1 else "")
            + (f" To use it: {report.remedy}" if report.remedy else "")
            + f" Others here: {_others(base)}."
        )
    for renderer in named(report.library.devices, devices):
        logger.info("Backend %r has a software renderer that was asked for: %s.", name, renderer)
    return open_library(report.library.path)


def _choose_best() -> Library:
    passed_over = []
    integrated: BackendReport | None = None
    for offer in sorted(_offers().values(), key=lambda offer: -offer.priority):
        report = _report(offer, _opener(offer, _probe_once), names=None)
        if report.library is None:
            passed_over.append(f"{report.name}: {report.reason}")
            if _mismatched(report) or (report.installed and not report.libraries):
                # No reason to fail, since another works; but nobody installed it for this.
                logger.warning("%s", report)
            continue
        if is_integrated({device.type for device in report.library.devices}):
            integrated = integrated or report
            passed_over.append(f"{report.name}: its GPU is an integrated one")
            continue
        if integrated is None or offer.device_types:
            return _open_best(report, passed_over)
        break
    if integrated is not None:
        return _open_best(integrated, [])
    raise BackendUnavailableError(
        "No backend can be used on this machine. " + "; ".join(passed_over) + ". Reinstall "
        "llamacffi from a wheel for this platform, or build it (see docs/building.md)."
    )


def _open_best(report: BackendReport, passed_over: list[str]) -> Library:
    assert report.library is not None
    logger.info(
        "Chose backend %r (%s).%s",
        report.name,
        ", ".join(device.description for device in report.library.devices),
        " Passed over " + "; ".join(passed_over) if passed_over else "",
    )
    return open_library(report.library.path)


def _mismatched(report: BackendReport) -> bool:
    return report.library is None and any(library.mismatch for library in report.libraries)


def _others(asked: str) -> str:
    return "; ".join(
        f"{report.name} ({'usable' if report.usable else report.reason})"
        for report in backends()
        if report.name != asked
    )


def _open_here(path: Path) -> Inventory:
    return inventory(open_library(path))


def _opener(offer: _Offer, probe: Callable[[Path], Inventory]) -> Callable[[Path], Inventory]:
    """How to look at a library: in a child process first where it needs a driver, which may crash.

    Not where the library is open already, nor where no child process can be started.
    """

    def open_safely(path: Path) -> Inventory:
        if not is_open(path):
            try:
                return probe(path)
            except CannotProbeError as error:
                logger.info("%s", error)
        return _open_here(path)

    return open_safely if offer.device_types else _open_here


_answers: dict[tuple[Path, int, tuple[tuple[str, str], ...]], Inventory] = {}


def _probe_once(path: Path) -> Inventory:
    """As `probe_library`, which is asked again when the file or the environment has changed."""
    changed = path.stat().st_mtime_ns if path.exists() else 0
    key = path, changed, tuple(sorted(os.environ.items()))
    if key not in _answers:
        _answers[key] = probe_library(path)
    return _answers[key]


def _report(
    offer: _Offer, open_with: Callable[[Path], Inventory], variant: str = "", names: Names = ()
) -> BackendReport:
    """Try the candidates, best first, up to the first that works; the rest only on paper.

    A child process tries them all: it costs this process nothing.
    """
    every_one = open_with is probe_library
    reports: list[LibraryReport] = []
    chosen: LibraryReport | None = None
    remedy = offer.remedy
    for info, package in offer.candidates(variant):
        tried = _suspect(info, package)
        if tried is None and (chosen is None or every_one):
            tried = _try(info, offer.device_types, open_with, names)
        tried = tried or LibraryReport(info.path, info.variant, usable=True)
        reports.append(tried)
        if chosen is None and tried.usable:
            chosen = tried
        if tried.mismatch:
            remedy = faults.update(package)
    reason = None
    if not reports:
        every = ", ".join(info.variant for info, _ in offer.candidates() if info.variant)
        if every:
            reason, remedy = f"there is no variant {variant!r}, only {every}", ""
        else:
            reason, remedy = faults.missing(offer.strangers, remedy)
    elif chosen is None:
        reason = next((tried.reason for tried in reports if tried.mismatch), reports[0].reason)
    return BackendReport(
        name=offer.name,
        installed=bool(reports or offer.strangers),
        usable=chosen is not None,
        reason=reason,
        remedy=None if chosen else remedy or None,
        library=chosen,
        libraries=tuple(reports),
    )


def _suspect(info: LibraryInfo, package: str) -> LibraryReport | None:
    """What speaks against a library without opening it."""
    lacking = missing_features(info.features)
    if lacking:
        reason = f"the processor lacks {', '.join(lacking)}"
        return LibraryReport(info.path, info.variant, usable=False, reason=reason)
    other = faults.another_commit(info, package)
    if other:
        return LibraryReport(info.path, info.variant, usable=False, reason=other, mismatch=True)
    return None


def _try(
    info: LibraryInfo,
    device_types: frozenset[str],
    open_with: Callable[[Path], Inventory],
    names: Names,
) -> LibraryReport:
    try:
        found = open_with(info.path)
    except LlamaCffiError as error:
        mismatch = isinstance(error, LibraryMismatchError)
        return LibraryReport(
            info.path, info.variant, usable=False, reason=str(error), mismatch=mismatch
        )
    reason = objection(found, device_types, names)
    return LibraryReport(info.path, info.variant, reason is None, reason, found.devices)


def backends(probe: bool = False) -> list[BackendReport]:
    """Report on every backend: what is installed, what is usable, and if not, why and the mend.

    Args:
        probe: Open every candidate in a child process. Otherwise that is done only with
            libraries that need a driver, and the others are opened in this process, where they
            stay. Either way a driver that crashes takes nobody along.

    Returns:
        One report per backend, in the order in which "auto" tries them; those that exist
        elsewhere but are not installed come last.
    """
    offers = _offers()
    ordered = sorted(offers.values(), key=lambda offer: -offer.priority)
    reports = [
        _report(offer, probe_library if probe else _opener(offer, probe_library))
        for offer in ordered
    ]
    absent = [
        BackendReport(name, False, False, reason="not installed", remedy=remedy)
        for name, remedy in REMEDIES.items()
        if name not in offers
    ]
    return reports + absent
