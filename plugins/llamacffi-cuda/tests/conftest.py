"""What the tests share: the report on the CUDA backend as it is installed."""

from __future__ import annotations

import pytest

import llamacffi
from llamacffi.backends import BackendReport


@pytest.fixture(scope="session")
def report() -> BackendReport:
    return next(report for report in llamacffi.backends() if report.name == "cuda")


@pytest.fixture
def no_gpu(report: BackendReport) -> BackendReport:
    """The report of a machine without an NVIDIA GPU."""
    if report.usable:
        pytest.skip("this machine has an NVIDIA GPU: what is said without one cannot be seen here")
    return report
