"""The addresses that workers answer, by which the front counts requests."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ADDRESSES", "Address", "address_of"]

ONE_MODEL = "/v1/models/"


@dataclass(frozen=True)
class Address:
    """Stands for the route of a request, which only its worker knows.

    Attributes:
        path: The route's path.
    """

    path: str


OTHER = Address("other")
ADDRESSES = {
    path: Address(path)
    for path in (
        "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/rerank",
        "/tokenize", "/detokenize", "/health", "/metrics", "/v1/models",
        f"{ONE_MODEL}{{name:path}}",
    )
}  # fmt: skip


def address_of(path: str) -> Address:
    """The address that a path belongs to."""
    if path.startswith(ONE_MODEL):
        return ADDRESSES[f"{ONE_MODEL}{{name:path}}"]
    return ADDRESSES.get(path, OTHER)
