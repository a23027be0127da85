"""What this machine's processor can do, from archspec.

archspec's raw detection rather than its nearest named microarchitecture: on a processor newer
than its database the name is a plain x86-64 level, and the features beyond it would be lost.
"""

from __future__ import annotations

import functools

__all__ = ["missing_features", "processor_features"]


@functools.cache
def processor_features() -> frozenset[str]:
    """The instruction-set features of this machine, by archspec's names, e.g. "avx512_vnni"."""
    import archspec.cpu.detect

    return frozenset(archspec.cpu.detect.detected_info().features)


def missing_features(needed: frozenset[str]) -> list[str]:
    """Which of the needed features this processor lacks, sorted."""
    return sorted(needed - processor_features()) if needed else []
