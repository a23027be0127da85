"""What the tests share: the real model, and the template as llamacffi finds it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llamacffi import Llama, Model
from llamacffi.templates import Template, templates


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    with Model("smollm2", backend="cpu", vocab_only=True) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def llama() -> Iterator[Llama]:
    with Llama("smollm2", backend="cpu", n_ctx=512, n_threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def sql() -> Template:
    return templates()["sql"]
